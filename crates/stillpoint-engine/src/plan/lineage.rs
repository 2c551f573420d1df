//! Sessions and process groups: who must be made when, so that each process is born into the session that it has.
//!
//! A session is inherited at fork and left only by setsid(2), which makes the caller its leader. So a process that
//! does not lead its session must be born of a parent that is in that session at that moment: before the parent's
//! own setsid, or after it.

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
    /// The group of the tree that it joins then.
    pub joins_group: Option<u32>,
}

/// The births of all processes, by index.
#[derive(Debug, PartialEq, Eq)]
pub struct Lineage {
    /// By index of the process.
    pub births: Vec<Birth>,
}

/// A process, as far as its lineage goes.
#[derive(Debug, Clone)]
struct Kin {
    pid: u32,
    session: u32,
    group: u32,
    children: Vec<usize>,
}

impl Lineage {
    /// Plans the births. Ids of 0 were led from outside: in the foreground they are inherited from the restoring
    /// process, detached the root leads them.
    ///
    /// # Errors
    ///
    /// When no order of fork and setsid gives these sessions.
    pub fn plan(model: &Model, foreground: Foreground) -> Result<Self> {
        let kin = model.processes.iter().map(|process| Kin {
            pid: process.task.pid,
            session: process.task.session,
            group: process.task.process_group,
            children: process.children.clone(),
        });
        plan(kin.collect(), foreground)
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
    // Children stand behind their parents, so going backwards each child's need is known before its parent's.
    for n in (0..kin.len()).rev() {
        let (Some(one), Some(birth)) = (kin.get(n), births.get_mut(n)) else { continue };
        birth.leads_session = one.session == one.pid;
        birth.leads_group = !birth.leads_session && one.group == one.pid;
        birth.joins_group = (one.group != one.pid && one.group != 0).then_some(one.group);
        let mut need = (!birth.leads_session).then_some(one.session);
        for &child in &one.children {
            match needs.get(child).copied().flatten() {
                Some(session) if session != one.session => {
                    if !birth.leads_session || need.is_some_and(|other| other != session) {
                        return Err(impossible(kin.get(child).map_or(0, |child| child.pid), session));
                    }
                    need = Some(session);
                    birth.before.push(child);
                }
                _ => birth.after.push(child),
            }
        }
        if let Some(slot) = needs.get_mut(n) {
            *slot = need;
        }
    }
    match needs.first().copied().flatten() {
        // The root is born in the session of the restoring process.
        Some(session) if session != 0 => Err(impossible(root.pid, session)),
        Some(_) if foreground == Foreground::Detached => Err(impossible(root.pid, 0)),
        _ => Ok(Lineage { births }),
    }
}

fn impossible(pid: u32, session: u32) -> Box<Error> {
    Box::new(
        Error::new(Code::KernelLacks, "planning sessions")
            .task(pid, "")
            .cause(format!("no order of fork and setsid puts it into session {session}"))
            .remedy(
                "not supported yet: a process whose session's members were made by a process that has ended",
            ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kin(pid: u32, session: u32, group: u32, children: &[usize]) -> Kin {
        Kin { pid, session, group, children: children.to_vec() }
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
}
