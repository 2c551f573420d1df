//! What machine this is and since when: whether an image comes from this boot of this machine.

use super::source;
use super::text::Text;
use crate::Result;

const TEXT: Text = Text("reading the identity of this machine");

/// The running system. Release, version and host name are those of the caller's UTS namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// `/proc/sys/kernel/random/boot_id`: another one after each boot.
    pub boot_id: Vec<u8>,
    /// `/etc/machine-id`, where there is one; none also for the text `uninitialized` of machine-id(5).
    pub machine_id: Option<Vec<u8>>,
    /// `Linux`.
    pub sysname: Vec<u8>,
    /// The kernel's release, such as `6.18.0`.
    pub release: Vec<u8>,
    /// The kernel's build.
    pub version: Vec<u8>,
    /// The architecture, such as `x86_64`; `i686` under a 32-bit personality.
    pub machine: Vec<u8>,
    /// Host name.
    pub hostname: Vec<u8>,
}

/// Reads them.
///
/// # Errors
///
/// When `boot_id` cannot be read or is not understood, or when there is a machine-id that is not.
pub fn read() -> Result<Boot> {
    let boot_id = source::parse_system(TEXT.0, "/proc/sys/kernel/random/boot_id", parse_boot_id)?;
    let machine_id = match source::parse_system(TEXT.0, "/etc/machine-id", parse_machine_id) {
        Ok(id) => id,
        Err(e) if e.errno() == Some(libc::ENOENT) => None,
        Err(e) => return Err(e),
    };
    let uname = rustix::system::uname();
    Ok(Boot {
        boot_id,
        machine_id,
        sysname: uname.sysname().to_bytes().to_vec(),
        release: uname.release().to_bytes().to_vec(),
        version: uname.version().to_bytes().to_vec(),
        machine: uname.machine().to_bytes().to_vec(),
        hostname: uname.nodename().to_bytes().to_vec(),
    })
}

/// Parses a boot id: a UUID in its text form.
///
/// # Errors
///
/// Anything else.
pub fn parse_boot_id(bytes: &[u8]) -> Result<Vec<u8>> {
    let line = TEXT.one_line(bytes)?;
    let dash = |at| matches!(at, 8 | 13 | 18 | 23);
    let uuid = line.iter().enumerate().all(|(i, c)| if dash(i) { *c == b'-' } else { c.is_ascii_hexdigit() });
    if uuid && line.len() == 36 { Ok(line.to_vec()) } else { Err(TEXT.bad("a boot id", line)) }
}

/// Parses a machine-id(5): 32 hexadecimal digits, `uninitialized`, or nothing.
///
/// # Errors
///
/// Anything else.
pub fn parse_machine_id(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    // A file that people and installers write: the newline may be missing.
    match bytes.strip_suffix(b"\n").unwrap_or(bytes) {
        b"" | b"uninitialized" => Ok(None),
        line if line.len() == 32 && line.iter().all(u8::is_ascii_hexdigit) => Ok(Some(line.to_vec())),
        line => Err(TEXT.bad("a machine id", line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        let boot = read().unwrap();
        assert_eq!(boot.sysname, b"Linux");
        assert_eq!(boot.boot_id, read().unwrap().boot_id);
    }

    #[test]
    fn ids() {
        assert!(parse_boot_id(b"01234567-89ab-cdef-0123-456789abcdef\n").is_ok());
        assert!(parse_boot_id(b"01234567-89ab-cdef-0123-456789abcde\n").is_err());
        assert!(parse_boot_id(b"0123456789ab-cdef-0123-456789abcdef01\n").is_err());
        assert_eq!(parse_machine_id(b"").unwrap(), None);
        assert_eq!(parse_machine_id(b"uninitialized\n").unwrap(), None);
        let id = b"0123456789abcdef0123456789abcdef";
        assert_eq!(parse_machine_id(id).unwrap().as_deref(), Some(&id[..]));
        assert!(parse_machine_id(b"0123\n").is_err());
    }
}
