//! Threads for modules: one for each that runs or is compiled. They are not tokio's blocking threads, because work of
//! others may take hours and must never be what a disk write waits for; and they run at a lower priority than the
//! node's own work, so that a busy machine still answers its peers.

/// Compilers recurse with their input; a module's own stack is inside of this one.
const STACK_BYTES: usize = 16 << 20;

/// Added to the thread's niceness, which on Linux is a thread's own.
const NICENESS: i32 = 10;

/// Starts a thread that ends by itself. The error says why it did not start.
pub(super) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let niced = move || {
        // Refused on some machines: then the work competes with the node's own, which is no reason not to do it.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        work();
    };
    match std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(niced) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no thread for it: {error}")),
    }
}
