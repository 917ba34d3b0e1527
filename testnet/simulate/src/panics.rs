//! Panics of simulated nodes. A task that panics dies alone, in a real node too; nothing else would show it.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Remembers every panic of this thread from now on, besides reporting it as before.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            SEEN.with_borrow_mut(|seen| seen.push(panic.to_string()));
            before(panic);
        }));
    });
    drop(take_messages());
}

/// The panics of this thread since the last look.
pub fn take_messages() -> Vec<String> {
    SEEN.take()
}
