//! Input that may keep a verb waiting: standard input, pipes, devices. Ctrl-C ends the wait.
//!
//! A blocked read goes on after a signal. So what is no regular file is read only once there is something to read, and a
//! verb that was asked to end reads no more: not the end of the input either, which a feeder that the same Ctrl-C ended
//! may have left cut.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is read, and its length where it has one.
pub(crate) struct Input {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) len: Option<u64>,
}

/// Why a read of an [`Input`] ended. Not [`io::ErrorKind::Interrupted`], after which everybody reads again.
#[derive(Debug)]
struct Interruption;

impl std::error::Error for Interruption {}

impl std::fmt::Display for Interruption {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("interrupted")
    }
}

/// Whether a read ended by Ctrl-C.
pub(crate) fn is_interruption(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Interruption>())
}

impl Input {
    /// Standard input.
    pub(crate) fn standard() -> io::Result<Self> {
        system::stdin()
    }

    /// Opens a file, pipe or device.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = system::opened(path)?;
        let facts = file.metadata()?;
        if facts.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(system::input(file, &facts))
    }
}

#[cfg(unix)]
mod system {
    use super::*;
    use std::fs::Metadata;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use crate::signals::interrupted;

    /// How long a Ctrl-C may go unseen that came between looking for it and waiting.
    const LOOK: Duration = Duration::from_millis(100);

    struct Waiting<A> {
        file: File,
        is_asked: A,
    }

    impl<A: Fn() -> bool> Read for Waiting<A> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.wait()?;
            let len = self.file.read(into)?;
            if len == 0 && (self.is_asked)() { Err(io::Error::other(Interruption)) } else { Ok(len) }
        }
    }

    impl<A: Fn() -> bool> Waiting<A> {
        fn wait(&self) -> io::Result<()> {
            let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
            loop {
                if (self.is_asked)() {
                    return Err(io::Error::other(Interruption));
                }
                match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&look)) {
                    // A signal: it may be the one looked for.
                    Ok(0) | Err(rustix::io::Errno::INTR) => {}
                    // Also what cannot be waited for: the read tells.
                    _ => return Ok(()),
                }
            }
        }
    }

    /// Past the buffer of the library's standard input, in which bytes could lie unseen.
    pub(super) fn stdin() -> io::Result<Input> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let facts = file.metadata()?;
        Ok(Input { len: None, ..input(file, &facts) })
    }

    pub(super) fn input(file: File, facts: &Metadata) -> Input {
        match facts.is_file() {
            true => Input { reader: Box::new(file), len: Some(facts.len()) },
            // A pipe or device has no length to measure progress by.
            false => Input { reader: Box::new(Waiting { file, is_asked: interrupted }), len: None },
        }
    }

    /// Opening a pipe with a name waits for somebody to write it: a thread of its own does, and is left behind.
    pub(super) fn opened(path: &Path) -> io::Result<File> {
        if !path.metadata()?.file_type().is_fifo() {
            return File::open(path);
        }
        let (sender, opened) = channel();
        let path = path.to_owned();
        std::thread::Builder::new().spawn(move || sender.send(File::open(path)))?;
        loop {
            match opened.recv_timeout(LOOK) {
                Ok(file) => return file,
                Err(RecvTimeoutError::Timeout) if !interrupted() => {}
                Err(_) => return Err(io::Error::other(Interruption)),
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::cell::Cell;
        use std::io::Write;
        use std::os::fd::OwnedFd;

        /// Asked to end after being looked at `looks` times; gives what was read of a pipe that ends.
        fn read(looks: usize) -> io::Result<String> {
            let (ours, mut theirs) = io::pipe()?;
            theirs.write_all(b"half a li")?;
            drop(theirs);
            let left = Cell::new(looks);
            let is_asked = || left.replace(left.get().saturating_sub(1)) == 0;
            let mut text = String::new();
            Waiting { file: OwnedFd::from(ours).into(), is_asked }.read_to_string(&mut text)?;
            Ok(text)
        }

        #[test]
        fn an_end_after_ctrl_c_is_no_end() {
            // One look before each read, one at the end.
            for looks in 0..3 {
                assert!(is_interruption(&read(looks).unwrap_err()), "{looks}");
            }
            assert_eq!(read(usize::MAX).unwrap(), "half a li");
        }
    }
}

/// Elsewhere Ctrl-C ends the process at once, waiting or not.
#[cfg(not(unix))]
mod system {
    use super::*;
    use std::fs::Metadata;

    pub(super) fn stdin() -> io::Result<Input> {
        Ok(Input { reader: Box::new(io::stdin()), len: None })
    }

    pub(super) fn input(file: File, facts: &Metadata) -> Input {
        Input { reader: Box::new(file), len: facts.is_file().then_some(facts.len()) }
    }

    pub(super) fn opened(path: &Path) -> io::Result<File> {
        File::open(path)
    }
}
