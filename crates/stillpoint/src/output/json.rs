//! The JSON objects. Their members are a contract: they are added to, never renamed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use stillpoint_engine::progress::PhaseTime;
use stillpoint_engine::report::{CheckpointReport, RestoreReport};
use stillpoint_engine::{Code, Error, Fate, TaskName};

/// The object as one line.
pub(crate) fn object(object: &impl Serialize) -> String {
    // Only a map with keys that are no strings, or a Serialize that fails, could fail here; ours have neither.
    serde_json::to_string(object).unwrap_or_else(|error| {
        let members: BTreeMap<&str, String> =
            [("result", "error".to_owned()), ("error", error.to_string())].into();
        serde_json::to_string(&members).unwrap_or_default()
    })
}

/// `{"result":"error","error":{...}}`
#[derive(Debug, Serialize)]
pub(crate) struct Failure<'a> {
    result: &'static str,
    error: ErrorObject<'a>,
}

impl<'a> Failure<'a> {
    pub(crate) fn new(error: &'a Error) -> Self {
        Failure { result: "error", error: error.into() }
    }
}

/// An error; members that say nothing are null, so that each is always there.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject<'a> {
    code: &'static str,
    exit_status: i32,
    doing: &'a str,
    task: Option<TaskObject<'a>>,
    object: Option<&'a str>,
    cause: Option<&'a str>,
    remedy: Option<&'a str>,
    others: Vec<ErrorObject<'a>>,
}

#[derive(Debug, Serialize)]
struct TaskObject<'a> {
    pid: u32,
    tid: Option<u32>,
    name: &'a str,
}

impl<'a> From<&'a Error> for ErrorObject<'a> {
    fn from(error: &'a Error) -> Self {
        ErrorObject {
            code: error.code.as_str(),
            exit_status: error.code.class() as i32,
            doing: &error.doing,
            task: error.task.as_ref().map(|TaskName { pid, tid, name }| TaskObject {
                pid: *pid,
                tid: *tid,
                name,
            }),
            object: error.object.as_deref(),
            cause: error.cause.as_deref(),
            remedy: error.remedy.as_deref(),
            others: error.others.iter().map(ErrorObject::from).collect(),
        }
    }
}

/// The result of a checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct Checkpoint<'a> {
    result: &'static str,
    image: &'a str,
    fate: &'static str,
    tasks: u64,
    threads: u64,
    files: u64,
    content_bytes: u64,
    image_bytes: u64,
    frozen_ms: f64,
    phases_ms: Phases<'a>,
    notes: &'a [String],
}

impl<'a> Checkpoint<'a> {
    pub(crate) fn new(report: &'a CheckpointReport, image: &'a str, fate: Fate) -> Self {
        Checkpoint {
            result: "checkpoint",
            image,
            fate: match fate {
                Fate::End => "ended",
                Fate::LeaveRunning => "running",
                Fate::LeaveStopped => "stopped",
            },
            tasks: report.tasks,
            threads: report.threads,
            files: report.files,
            content_bytes: report.content_bytes,
            image_bytes: report.image_bytes,
            frozen_ms: milliseconds(report.frozen),
            phases_ms: Phases(&report.phases),
            notes: &report.notes,
        }
    }
}

/// The result of a restore.
#[derive(Debug, Serialize)]
pub(crate) struct Restore<'a> {
    result: &'static str,
    image: &'a str,
    pid: u32,
    private_pids: bool,
    tasks: u64,
    threads: u64,
    files: u64,
    content_bytes: u64,
    phases_ms: Phases<'a>,
    notes: &'a [String],
}

impl<'a> Restore<'a> {
    pub(crate) fn new(report: &'a RestoreReport, image: &'a str) -> Self {
        Restore {
            result: "restore",
            image,
            pid: report.pid,
            private_pids: report.private_pids,
            tasks: report.tasks,
            threads: report.threads,
            files: report.files,
            content_bytes: report.content_bytes,
            phases_ms: Phases(&report.phases),
            notes: &report.notes,
        }
    }
}

/// The result of a dry run. What does not fit is its content, not an error of it.
#[derive(Debug, Serialize)]
pub(crate) struct DryRun<'a> {
    result: &'static str,
    image: &'a str,
    fits: bool,
    private_pids: bool,
    tasks: u64,
    threads: u64,
    files: u64,
    content_bytes: u64,
    phases_ms: Phases<'a>,
    steps: &'a [String],
    misfits: Vec<ErrorObject<'a>>,
    notes: &'a [String],
}

impl<'a> DryRun<'a> {
    pub(crate) fn new(report: &'a RestoreReport, image: &'a str) -> Self {
        DryRun {
            result: "dry-run",
            image,
            fits: report.misfits.is_empty(),
            private_pids: report.private_pids,
            tasks: report.tasks,
            threads: report.threads,
            files: report.files,
            content_bytes: report.content_bytes,
            phases_ms: Phases(&report.phases),
            steps: &report.steps,
            misfits: report.misfits.iter().map(ErrorObject::from).collect(),
            notes: &report.notes,
        }
    }
}

/// What `inspect` and `verify` found: their content beside the name of what was done.
#[derive(Debug, Serialize)]
pub(crate) struct Found<'a, T: Serialize> {
    result: &'static str,
    image: &'a str,
    #[serde(flatten)]
    content: &'a T,
}

impl<'a, T: Serialize> Found<'a, T> {
    pub(crate) fn new(result: &'static str, image: &'a str, content: &'a T) -> Self {
        Found { result, image, content }
    }
}

/// `{"freeze":0.4,"collect":1.2}`, in the order in which they happened.
#[derive(Debug)]
struct Phases<'a>(&'a [PhaseTime]);

impl Serialize for Phases<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (index, PhaseTime { phase, .. }) in self.0.iter().enumerate() {
            // A key may be in an object only once: what happened in several goes is added up.
            if self.0[..index].iter().any(|earlier| earlier.phase == *phase) {
                continue;
            }
            let total = self.0.iter().filter(|each| each.phase == *phase).map(|each| each.time).sum();
            map.serialize_entry(phase.as_str(), &milliseconds(total))?;
        }
        map.end()
    }
}

/// Milliseconds with three decimals.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// A usage error that clap found, in the same shape as every other.
pub(crate) fn usage_error(message: &str) -> Error {
    let first = message.lines().next().unwrap_or_default();
    Error::new(Code::Usage, "reading the command line")
        .cause(first.strip_prefix("error: ").unwrap_or(first))
        .remedy("see `stillpoint --help`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use stillpoint_engine::Phase;

    fn value(thing: &impl Serialize) -> Value {
        serde_json::from_str(&object(thing)).expect("is JSON")
    }

    #[test]
    fn an_error_has_all_members() {
        let error = Error::new(Code::UnsupportedFile, "saving").task(42, "re\"dis").cause("no");
        assert_eq!(
            value(&Failure::new(&error)),
            json!({"result": "error", "error": {
                "code": "unsupported-file", "exit_status": 3, "doing": "saving",
                "task": {"pid": 42, "tid": null, "name": "re\"dis"},
                "object": null, "cause": "no", "remedy": null, "others": [],
            }})
        );
    }

    #[test]
    fn phases_keep_their_order_and_are_summed() {
        let of = |phase, us| PhaseTime { phase, time: Duration::from_micros(us) };
        let phases = [of(Phase::Freeze, 1500), of(Phase::Collect, 2), of(Phase::Freeze, 500)];
        assert_eq!(object(&Phases(&phases)), r#"{"freeze":2.0,"collect":0.002}"#);
    }

    #[test]
    fn a_checkpoint_is_one_line() {
        let report = CheckpointReport { tasks: 1, ..CheckpointReport::default() };
        let text = object(&Checkpoint::new(&report, "a\nb", Fate::LeaveStopped));
        assert!(!text.contains('\n'));
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(
            (&value["result"], &value["fate"], &value["tasks"]),
            (&json!("checkpoint"), &json!("stopped"), &json!(1))
        );
    }
}
