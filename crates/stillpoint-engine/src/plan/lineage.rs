//! Sessions and process groups: who must be made when, so that each process is born into the session that it has.
//!
//! A session is inherited at fork and left only by setsid(2), which makes the caller its leader. So a process that
//! does not lead its session must be born of a parent that is in that session at that moment: before the parent's
//! own setsid, or after it.
//!
//! One whose parent is in no such session is a child that was left to it: a process is handed to an ancestor (init, or a
//! subreaper) when its parent ends. Such a child is made by the leader of its session, as a sibling (CLONE_PARENT). A
//! leader that has ended is made for that purpose, and ends again: the members hold its id.

use std::collections::HashSet;

use stillpoint_image::records::Task;

use super::model::{Model, inconsistent};
use crate::{Code, Error, Foreground, Result};

/// How one process comes to its session and group.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Birth {
    /// Children that are made before it leads a session.
    pub before: Vec<usize>,
    /// Whether it calls setsid(2).
    pub leads_session: bool,
    /// Children that are made after that.
    pub after: Vec<usize>,
    /// Whether it makes a process group of its own.
    pub leads_group: bool,
    /// Processes that it makes then as siblings of its own: of its session, but not its children.
    pub beside: Vec<usize>,
    /// The group of the tree that it joins then.
    pub joins_group: Option<u32>,
    /// CLONE_FILES and CLONE_FS, as it shares with the process that makes it.
    pub shares: i32,
}

/// The leader of a session or process group that has ended while members live on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    /// Its process id, and that of what it led.
    pub id: u32,
    /// The process that makes it, and reaps it again.
    pub parent: usize,
    /// Of a session: the processes that it makes, as children of that process.
    pub makes: Vec<usize>,
    /// The signal of its end, which those inherit.
    pub exit_signal: u32,
}

/// The births of all processes, by index.
#[derive(Debug, PartialEq, Eq)]
pub struct Lineage {
    /// By index of the process.
    pub births: Vec<Birth>,
    /// Leaders of sessions that have ended.
    pub departed_sessions: Vec<Departed>,
    /// Leaders of process groups that have ended, if they did not lead the session as well.
    pub departed_groups: Vec<Departed>,
}

/// A process, as far as its lineage goes.
#[derive(Debug, Clone)]
struct Kin {
    pid: u32,
    session: u32,
    group: u32,
    exit_signal: u32,
    /// Descriptor table and working directory; 0 of a zombie.
    objects: [u64; 2],
    children: Vec<usize>,
}

/// The flags by which those objects are shared, and what they are called.
const SHARING: [(i32, &str); 2] = [
    (libc::CLONE_FILES, "its descriptor table (CLONE_FILES)"),
    (libc::CLONE_FS, "its working directory (CLONE_FS)"),
];

impl Kin {
    fn of(task: &Task, children: Vec<usize>) -> Self {
        Kin {
            pid: task.pid,
            session: task.session,
            group: task.process_group,
            exit_signal: task.exit_signal,
            objects: [task.descriptors, task.fs],
            children,
        }
    }
}

impl Lineage {
    /// Plans the births. Ids of 0 were led from outside: in the foreground they are inherited from the restoring
    /// process, detached the root leads them.
    ///
    /// # Errors
    ///
    /// When no order of fork and setsid gives these sessions.
    pub fn plan(model: &Model, foreground: Foreground) -> Result<Self> {
        let kin = model.processes.iter().map(|process| Kin::of(&process.task, process.children.clone()));
        plan(kin.collect(), foreground)
    }

    /// Whether a tree that is being saved could be born again; parents come before their children.
    ///
    /// # Errors
    ///
    /// See [`Lineage::plan`].
    pub fn check<'a>(tasks: impl Iterator<Item = &'a Task>) -> Result<()> {
        let mut kin: Vec<Kin> = Vec::new();
        for (n, task) in tasks.enumerate() {
            let parent = kin.iter_mut().find(|other| other.pid == task.parent);
            parent.into_iter().for_each(|parent| parent.children.push(n));
            kin.push(Kin::of(task, Vec::new()));
        }
        plan(kin.clone(), Foreground::Detached).or_else(|_| plan(kin, Foreground::Attached)).map(drop)
    }
}

fn plan(mut kin: Vec<Kin>, foreground: Foreground) -> Result<Lineage> {
    let Some(root) = kin.first().cloned() else { return Err(inconsistent("no process".into())) };
    if foreground == Foreground::Detached && root.session == 0 {
        for one in &mut kin {
            one.session = if one.session == 0 { root.pid } else { one.session };
            one.group = if one.group == 0 { root.pid } else { one.group };
        }
    }
    let mut births = vec![Birth::default(); kin.len()];
    let mut needs = vec![None; kin.len()];
    let mut sessions: Vec<Departed> = Vec::new();
    let mut beside: Vec<(usize, usize)> = Vec::new();
    // Children stand behind their parents, so going backwards each child's need is known before its parent's.
    for n in (0..kin.len()).rev() {
        let (Some(one), Some(birth)) = (kin.get(n), births.get_mut(n)) else { continue };
        birth.leads_session = one.session == one.pid;
        birth.leads_group = !birth.leads_session && one.group == one.pid;
        birth.joins_group = (one.group != one.pid && one.group != 0).then_some(one.group);
        let mut need = (!birth.leads_session).then_some(one.session);
        for &child in &one.children {
            let Some(session) = needs.get(child).copied().flatten().filter(|session| *session != one.session)
            else {
                birth.after.push(child);
                continue;
            };
            let exit_signal = kin.get(child).map_or(0, |kin| kin.exit_signal);
            let leads = |other: &&usize| {
                kin.get(**other).is_some_and(|kin| kin.pid == session && kin.session == session)
            };
            if let Some(&leader) = one.children.iter().find(leads) {
                // A sibling inherits the signal of its end.
                if kin.get(leader).is_none_or(|leader| leader.exit_signal != exit_signal) {
                    return Err(impossible(kin.get(child).map_or(0, |child| child.pid), session));
                }
                beside.push((leader, child));
            } else if session != 0 && !kin.iter().any(|other| other.pid == session) {
                match sessions.iter_mut().find(|departed| departed.id == session) {
                    Some(one) if one.parent == n && one.exit_signal == exit_signal => one.makes.push(child),
                    Some(_) => return Err(impossible(kin.get(child).map_or(0, |child| child.pid), session)),
                    None => {
                        sessions.push(Departed { id: session, parent: n, makes: vec![child], exit_signal });
                    }
                }
            } else if !birth.leads_session || need.is_some_and(|other| other != session) {
                return Err(impossible(kin.get(child).map_or(0, |child| child.pid), session));
            } else {
                need = Some(session);
                birth.before.push(child);
            }
        }
        if let Some(slot) = needs.get_mut(n) {
            *slot = need;
        }
    }
    for (leader, child) in beside {
        births.get_mut(leader).into_iter().for_each(|birth| birth.beside.push(child));
    }
    match needs.first().copied().flatten() {
        // The root is born in the session of the restoring process.
        Some(session) if session != 0 => return Err(impossible(root.pid, session)),
        Some(_) if foreground == Foreground::Detached => return Err(impossible(root.pid, 0)),
        _ => {}
    }
    let departed_groups = departed_groups(&kin, &sessions);
    let mut lineage = Lineage { births, departed_sessions: sessions, departed_groups };
    match lineage.unborn() {
        None => {
            lineage.share(&kin)?;
            Ok(lineage)
        }
        Some(n) => {
            Err(impossible(kin.get(n).map_or(0, |kin| kin.pid), needs.get(n).copied().flatten().unwrap_or(0)))
        }
    }
}

/// Groups without a leader: the first member makes one. That of a session's leader is inherited from it.
fn departed_groups(kin: &[Kin], sessions: &[Departed]) -> Vec<Departed> {
    let mut groups: Vec<Departed> = Vec::new();
    for (parent, one) in kin.iter().enumerate() {
        let id = one.group;
        let led = id == 0
            || kin.iter().any(|other| other.pid == id)
            || sessions.iter().chain(&groups).any(|departed| departed.id == id);
        if !led {
            groups.push(Departed { id, parent, makes: Vec::new(), exit_signal: 0 });
        }
    }
    groups
}

impl Lineage {
    /// The processes that are made after a process, by it or by leaders that it makes; in that order.
    pub fn made_after(&self, n: usize) -> impl Iterator<Item = usize> + '_ {
        let own = self.births.get(n).into_iter();
        let departed = self.departed_sessions.iter().filter(move |departed| departed.parent == n);
        own.flat_map(|birth| birth.before.iter().chain(&birth.after).chain(&birth.beside))
            .chain(departed.flat_map(|departed| &departed.makes))
            .copied()
    }

    /// Says what each process shares with the one that makes it. What it shares with another only cannot be made.
    fn share(&mut self, kin: &[Kin]) -> Result<()> {
        let mut met: HashSet<(usize, u64)> = HashSet::new();
        let mut next = vec![(0, None)];
        while let Some((n, maker)) = next.pop() {
            let Some(one) = kin.get(n) else { continue };
            let maker = maker.and_then(|maker: usize| kin.get(maker));
            for (which, ((flag, name), &object)) in SHARING.iter().zip(&one.objects).enumerate() {
                let first = object == 0 || met.insert((which, object));
                if maker.is_some_and(|maker| object != 0 && maker.objects.get(which) == Some(&object)) {
                    self.births.get_mut(n).into_iter().for_each(|birth| birth.shares |= flag);
                } else if !first {
                    return Err(Error::new(Code::UnsupportedSharing, "planning births")
                        .task(one.pid, "")
                        .cause(format!(
                            "it shares {name} with a process that did not make it, while the one that did does not"
                        ))
                        .remedy("not supported yet")
                        .into());
                }
            }
            next.extend(self.made_after(n).map(|made| (made, Some(n))));
        }
        Ok(())
    }

    /// A process that is never made: leaders that wait for each other.
    fn unborn(&self) -> Option<usize> {
        let mut born = vec![false; self.births.len()];
        let mut next = vec![0];
        while let Some(n) = next.pop() {
            match born.get_mut(n) {
                Some(born) if !*born => *born = true,
                _ => continue,
            }
            next.extend(self.made_after(n));
        }
        born.iter().position(|born| !born)
    }

    /// The ids of leaders that have ended.
    pub fn departed_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.departed_sessions.iter().chain(&self.departed_groups).map(|departed| departed.id)
    }
}

fn impossible(pid: u32, session: u32) -> Box<Error> {
    Box::new(
        Error::new(Code::KernelLacks, "planning sessions")
            .task(pid, "")
            .cause(format!("no order of fork and setsid puts it into session {session}"))
            .remedy("save a smaller tree: the processes that are in one session alone"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kin(pid: u32, session: u32, group: u32, children: &[usize]) -> Kin {
        Kin { pid, session, group, exit_signal: 17, objects: [0; 2], children: children.to_vec() }
    }

    #[test]
    fn a_child_of_the_old_session_is_born_before_setsid() {
        let all = vec![kin(10, 10, 10, &[1, 2]), kin(11, 0, 0, &[]), kin(12, 10, 12, &[])];
        let lineage = plan(all, Foreground::Attached).unwrap();
        assert_eq!(lineage.births[0].before, [1]);
        assert_eq!(lineage.births[0].after, [2]);
        assert!(lineage.births[0].leads_session && !lineage.births[0].leads_group);
        assert!(lineage.births[2].leads_group);
    }

    #[test]
    fn need_passes_through_a_leader() {
        let all = vec![kin(10, 10, 10, &[1]), kin(11, 11, 11, &[2]), kin(12, 10, 10, &[])];
        let lineage = plan(all, Foreground::Detached).unwrap();
        assert_eq!(lineage.births[0].after, [1]);
        assert_eq!(lineage.births[1].before, [2]);
        assert_eq!(lineage.births[2].joins_group, Some(10));
    }

    #[test]
    fn detached_the_root_leads_what_was_led_from_outside() {
        let all = vec![kin(10, 0, 0, &[1]), kin(11, 0, 11, &[])];
        let lineage = plan(all, Foreground::Detached).unwrap();
        assert!(lineage.births[0].leads_session);
        assert_eq!(lineage.births[0].joins_group, None);
        assert!(lineage.births[1].leads_group);
    }

    #[test]
    fn two_old_sessions_cannot_be() {
        let all =
            vec![kin(10, 10, 10, &[1]), kin(11, 11, 11, &[2, 3]), kin(12, 10, 10, &[]), kin(13, 0, 0, &[])];
        assert!(plan(all, Foreground::Attached).is_err());
    }

    #[test]
    fn a_child_that_was_left_to_an_ancestor_is_made_by_its_leader() {
        // 11 leads a session; 12 was a child of a child of it that has ended.
        let all = vec![kin(10, 10, 10, &[1, 2]), kin(12, 11, 11, &[]), kin(11, 11, 11, &[])];
        let lineage = plan(all, Foreground::Detached).unwrap();
        assert_eq!(lineage.births[2].beside, [1]);
        assert_eq!(lineage.births[0].after, [2]);
        assert_eq!(lineage.departed_sessions, []);
    }

    #[test]
    fn a_departed_leader_is_made_for_its_members() {
        let all =
            vec![kin(10, 10, 10, &[1, 2]), kin(12, 11, 11, &[3]), kin(13, 11, 14, &[]), kin(15, 11, 11, &[])];
        let lineage = plan(all, Foreground::Detached).unwrap();
        let leader = Departed { id: 11, parent: 0, makes: vec![1, 2], exit_signal: 17 };
        assert_eq!(lineage.departed_sessions, [leader]);
        assert_eq!(lineage.departed_groups, [Departed { id: 14, parent: 2, makes: vec![], exit_signal: 0 }]);
        assert_eq!(lineage.births[1].after, [3]);
        assert_eq!(lineage.departed_ids().collect::<Vec<_>>(), [11, 14]);
    }

    #[test]
    fn leaders_that_wait_for_each_other_cannot_be() {
        let all = vec![
            kin(10, 10, 10, &[1, 2]),
            kin(11, 11, 11, &[3]),
            kin(12, 12, 12, &[4]),
            kin(13, 12, 12, &[]),
            kin(14, 11, 11, &[]),
        ];
        assert!(plan(all, Foreground::Detached).is_err());
    }

    #[test]
    fn what_is_shared_passes_from_maker_to_made() {
        let share = |files, fs, kin| Kin { objects: [files, fs], ..kin };
        let all = |last| {
            vec![
                share(1, 2, kin(10, 10, 10, &[1, 2])),
                share(1, 3, kin(11, 10, 10, &[3])),
                share(4, 2, kin(12, 10, 10, &[])),
                share(last, 3, kin(13, 10, 10, &[])),
            ]
        };
        let lineage = plan(all(5), Foreground::Detached).unwrap();
        let shares: Vec<i32> = lineage.births.iter().map(|birth| birth.shares).collect();
        assert_eq!(shares, [0, libc::CLONE_FILES, libc::CLONE_FS, libc::CLONE_FS]);
        // Shared with a brother of its parent only.
        assert!(plan(all(4), Foreground::Detached).is_err());
    }
}
