//! The reader of standard output: whoever shows or processes what a command prints, and may have had enough (`| head`).
//!
//! A command that prints notices at its next line, for the write fails. A command that follows or waits may have
//! nothing to print for hours, so it watches standard output beside its work: a pipe whose other end was closed reports
//! an error at once. What only looks ends then ([`while_read`]); what has an effect goes on, for that was asked for
//! too.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::failure::Failure;

/// Runs what nobody needs once standard output has no reader.
pub async fn while_read<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => done,
        () = until_gone() => Err(Failure::reader_gone()),
    }
}

/// Waits until nobody can read standard output any more. A file has no reader that could go away.
pub async fn until_gone() {
    let (gone, told) = oneshot::channel();
    // A thread of its own: it waits for nothing else, and ends with the process.
    let watching = std::thread::Builder::new().name("stdout-reader".to_owned()).spawn(move || {
        if poll_closed(&std::io::stdout()) {
            // Nobody listens when the command has ended by itself.
            let _ = gone.send(());
        }
    });
    // Without the thread, or a descriptor that can be polled, the next write says so.
    if watching.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}

/// Blocks until the other end of this pipe, socket or terminal is closed. False if it cannot be known.
fn poll_closed(output: &impl AsFd) -> bool {
    // Asked for nothing, the system reports errors and hang-ups alone.
    let mut watched = [PollFd::new(output, PollFlags::empty())];
    loop {
        match poll(&mut watched, None) {
            Ok(_) => {
                let found = watched[0].revents();
                if found.contains(PollFlags::NVAL) {
                    return false;
                }
                if found.intersects(PollFlags::ERR | PollFlags::HUP) {
                    return true;
                }
            }
            Err(Errno::INTR) => (),
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_closed_when_its_reader_is_gone_though_nothing_was_written() {
        let (reader, writer) = std::io::pipe().unwrap();
        let watching = std::thread::spawn(move || poll_closed(&writer));
        drop(reader);
        assert!(watching.join().unwrap());
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let watching = std::thread::spawn(move || poll_closed(&ours));
        drop(theirs);
        assert!(watching.join().unwrap());
    }
}
