//! System calls and expectations.

/// Calls a libc function and turns -1 into words.
///
/// Takes the unsafe call as an expression. A workload passes numbers and addresses of objects of its own that live across the
/// call; where a call does more than that (a handler, a new mapping over an old one), the place says so.
macro_rules! sys {
    ($call:expr) => {{
        // SAFETY: arguments are numbers or addresses of this workload's own live objects, of the sizes that the call
        // expects; a workload that got one wrong would fail its own verification, not harm another.
        #[allow(unused_unsafe)]
        let result = unsafe { $call };
        if result as i64 == -1 {
            let error = std::io::Error::last_os_error();
            Err(format!("{}: {error}", stringify!($call).split('(').next().unwrap_or_default()))
        } else {
            Ok(result)
        }
    }};
}

/// Returns an error unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $($text:tt)+) => {
        if !$cond {
            return Err(format!($($text)+));
        }
    };
}

/// Returns an error unless two values are equal; says both.
macro_rules! same {
    ($what:expr, $is:expr, $expected:expr) => {{
        let (is, expected) = (&$is, &$expected);
        if is != expected {
            return Err(format!("{}: is {is:?}, was {expected:?}", $what));
        }
    }};
}
