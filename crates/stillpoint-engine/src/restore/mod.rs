//! Restore: verify, plan, build, fill, resume.
//!
//! Nothing is made before the image is verified and the place is found to fit. Until the commit everything that was
//! made dies with this process or is killed by the undo; after it, every task runs.

mod birth;
mod build;
mod commit;
mod fill;
mod inherit;
mod namespace;
mod parts;
mod pid_file;
pub mod sequence;
mod stops;
mod terminal;
mod transfer;
mod undo;
mod wait;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use stillpoint_image::VerifiedImage;
use stillpoint_image::records::Credentials;
use stillpoint_sys::proc::status::{self, Status};

use crate::inspect::{self, Depth, image_error};
use crate::kind::external::Created;
use crate::kind::terminal::Settings;
use crate::kind::{Place, descriptors};
use crate::plan::place::{self, Caller};
use crate::plan::{Lineage, Model};
use crate::stopwatch::Stopwatch;
use crate::task::credentials;
use crate::{Code, Error, Foreground, Observer, Phase, RestoreOptions, RestoreReport, Result};

use pid_file::PidFile;
pub use wait::Restored;

/// What was asked for, and what the image holds.
struct Prepared {
    image: VerifiedImage<File>,
    model: Model,
    lineage: Lineage,
    place: Place,
    caller: Caller,
    private_pids: bool,
    foreground: Foreground,
    pid_file: Option<PathBuf>,
}

/// Brings the tree of an image back and lets it run. Every task runs, or nothing is left behind.
///
/// Run this in a process without other threads where privilege is missing: entering a user namespace needs that.
///
/// # Errors
///
/// With the reason; nothing is left behind.
pub fn restore(options: RestoreOptions, observer: &mut dyn Observer) -> Result<Restored> {
    let mut watch = Stopwatch::default();
    let prepared = prepare(options, observer, &mut watch)?;
    if !prepared.private_pids {
        place::await_reaping(&prepared.model);
    }
    let misfits = watch.time(Phase::Plan, || {
        place::misfits(&prepared.model, &prepared.place, &prepared.caller, prepared.private_pids)
    });
    if let Some(error) = together(misfits) {
        return Err(error);
    }
    stillpoint_sys::signal::default_child_action()?;
    raise_descriptor_limit(&prepared)?;
    let private = if prepared.private_pids { Some(namespace::enter(&prepared.caller)?) } else { None };
    let have = have(&prepared.caller.status)?;
    observer.phase(Phase::Build, None);
    let mut notes = Vec::new();
    let (model, image) = (&prepared.model, &prepared.image);
    let mut contents = |id: u64, sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>| {
        let mut raw = Vec::new();
        for frame in image.data_of(id) {
            image.read_data(frame, &mut raw).map_err(|error| Box::new(image_error(&error)))?;
            for (run, bytes) in frame.split(&raw) {
                sink(run.offset, bytes)?;
            }
        }
        Ok(())
    };
    let mut tries = 0;
    let (mut builder, pid, files, terminal, created) = loop {
        let built = watch.time(Phase::Build, || {
            let rebuilt = descriptors::rebuild_all(&model.objects, &prepared.place, &mut contents)?;
            let files = rebuilt.files.len() as u64;
            let mut builder = build::Builder::new(
                model,
                &prepared.lineage,
                image,
                &prepared.place,
                rebuilt.files,
                rebuilt.inodes,
            )?;
            let pid = builder.build(observer)?;
            notes.extend(rebuilt.notes);
            Ok::<_, Box<Error>>((builder, pid, files, rebuilt.terminal, rebuilt.created))
        });
        match built {
            // The id of a task that was just reaped is in use for a moment longer than the task can be seen.
            Err(error) if error.code == Code::PidTaken && !prepared.private_pids && tries < 200 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            built => break built?,
        }
    };
    let total = image.data().iter().map(|frame| u64::from(frame.raw_length)).sum();
    observer.phase(Phase::Fill, Some(total));
    let content_bytes = watch.time(Phase::Fill, || builder.fill(observer))?;
    observer.phase(Phase::Resume, None);
    let mut joined = terminal::Joined::plan(model, prepared.foreground);
    notes.extend(joined.notes());
    let held = watch.time(Phase::Resume, || -> Result<wait::Held> {
        builder.finish(&have)?;
        // What arrives before this ends the restore; what arrives after it is the tree's.
        let held = wait::Held::back(prepared.caller.status.sig_ign)?;
        if observer.interrupted() {
            return Err(Error::new(Code::Interrupted, "restoring the tree")
                .cause("interrupted; nothing is left")
                .into());
        }
        Ok(held)
    })?;
    let mut report = RestoreReport {
        phases: watch.phases(),
        pid,
        tasks: model.processes.len() as u64,
        threads: model.thread_count(),
        files,
        content_bytes,
        private_pids: prepared.private_pids,
        notes,
        ..RestoreReport::default()
    };
    let pid_file = prepared.pid_file.as_deref().map(|path| PidFile::write(path, pid)).transpose()?;
    observer.resuming(&report);
    watch.time(Phase::Resume, || -> Result<()> {
        if terminal.as_ref().is_some_and(Settings::resized) {
            builder.signal_group(joined.holder(), libc::SIGWINCH);
        }
        joined.prepare(builder.group(joined.holder()), terminal);
        let done = joined.hand_over().and_then(|()| builder.commit());
        done.inspect_err(|_| {
            joined.take_back();
            joined.reset();
        })
    })?;
    created.into_iter().for_each(Created::keep);
    if let Some(file) = pid_file {
        file.publish()?;
    }
    report.phases = watch.into_phases();
    let held = (prepared.foreground == Foreground::Attached).then_some(held);
    Ok(Restored::new(report, private, joined, held))
}

/// Says what a restore would do and what does not fit, and touches nothing.
///
/// # Errors
///
/// When the image cannot be read.
pub fn dry_run(options: RestoreOptions, observer: &mut dyn Observer) -> Result<RestoreReport> {
    let mut watch = Stopwatch::default();
    let prepared = prepare(options, observer, &mut watch)?;
    let model = &prepared.model;
    let misfits = watch.time(Phase::Plan, || {
        place::misfits(model, &prepared.place, &prepared.caller, prepared.private_pids)
    });
    Ok(RestoreReport {
        tasks: model.processes.len() as u64,
        threads: model.thread_count(),
        files: model
            .objects
            .iter()
            .filter(|object| crate::kind::registry::describes_open_file(&object.kind))
            .count() as u64,
        content_bytes: prepared.image.data().iter().map(|frame| u64::from(frame.raw_length)).sum(),
        private_pids: prepared.private_pids,
        notes: terminal::Joined::plan(model, prepared.foreground).notes(),
        steps: steps(&prepared),
        misfits,
        phases: watch.into_phases(),
        pid: 0,
    })
}

fn prepare(options: RestoreOptions, observer: &mut dyn Observer, watch: &mut Stopwatch) -> Result<Prepared> {
    let RestoreOptions { input, foreground, root, private_pids, externals, pid_file } = options;
    let image = watch.time(Phase::Verify, || inspect::read(input, Depth::Checksums, observer))?;
    observer.phase(Phase::Plan, None);
    let mut model = Model::read(&image)?;
    let lineage = Lineage::plan(&model, foreground)?;
    let caller = Caller::read()?;
    let mut place = match &root {
        Some(root) => Place::below(root)?,
        None => Place::default(),
    };
    place.terminal = if foreground == Foreground::Attached { terminal::own() } else { None };
    place.replacements = model.replace(&externals)?;
    let private_pids = private_pids || !caller.is_privileged();
    Ok(Prepared { image, model, lineage, place, caller, private_pids, foreground, pid_file })
}

/// One error for all that does not fit: the first, with the others listed.
fn together(misfits: Vec<Error>) -> Option<Box<Error>> {
    let mut misfits = misfits.into_iter();
    let mut first = misfits.next()?;
    first.others = misfits.collect();
    Some(Box::new(first))
}

/// The credentials that tasks start with: this process's, of before it entered a user namespace (which shows ids that
/// it does not map as another), with the capabilities that it has now.
fn have(before: &Status) -> Result<Credentials> {
    let now = status::read(std::process::id())?;
    let mut have = credentials::capture(before, 0);
    have.cap_inheritable = now.cap_inh;
    have.cap_permitted = now.cap_prm;
    have.cap_effective = now.cap_eff;
    have.cap_bounding = now.cap_bnd;
    have.cap_ambient = now.cap_amb;
    Ok(have)
}

/// Descriptors of tasks pass through this process at numbers of their own.
fn raise_descriptor_limit(prepared: &Prepared) -> Result<()> {
    let (soft, hard) =
        prepared.caller.limits.get(crate::task::limits::NOFILE as usize).copied().unwrap_or((0, 0));
    if soft == hard {
        return Ok(());
    }
    let limit = rustix::process::Rlimit { current: Some(hard), maximum: Some(hard) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).map_err(|errno| {
        Error::new(Code::LimitTooSmall, "raising the limit on open files").cause(errno).into()
    })
}

/// What a restore would do, one line a step.
fn steps(prepared: &Prepared) -> Vec<String> {
    let mut steps = Vec::new();
    if prepared.private_pids {
        steps.push("enter a new user and pid namespace".to_owned());
    }
    for id in prepared.lineage.departed_ids() {
        steps.push(format!("make process {id} to lead what it has led, and end it"));
    }
    for (process, birth) in prepared.model.processes.iter().zip(&prepared.lineage.births) {
        let name = process.task.name.escape_ascii();
        let pid = process.task.pid;
        let Some(body) = &process.body else {
            steps.push(format!(
                "make process {pid} ({name}), and end it with status {:#x}",
                process.task.exit_code
            ));
            continue;
        };
        let mut step = format!(
            "make process {pid} ({name}) with {} threads, {} areas of memory and {} descriptors",
            process.threads.len(),
            body.mm.areas.len(),
            body.table.descriptors.len()
        );
        if !body.table.locks.is_empty() {
            step.push_str(&format!(", {} file locks of its own", body.table.locks.len()));
        }
        if birth.leads_session {
            step.push_str(", leading a session");
        } else if birth.leads_group {
            step.push_str(", leading a process group");
        }
        steps.push(step);
    }
    steps
}
