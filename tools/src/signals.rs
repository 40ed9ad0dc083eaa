//! Signals: Ctrl-C, and the one that a file-size limit sends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::failure::{Code, Failure};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Sets both up. `finish_first`: the first Ctrl-C only asks ([`interrupted`]), the second ends at once.
///
/// With SIGXFSZ caught, a write beyond the limit on file sizes is an ordinary error instead of the process' end.
pub(crate) fn prepare(finish_first: bool) -> Result<(), Failure> {
    let asked = Arc::new(AtomicBool::new(!finish_first));
    arm(&asked)
        .map_err(|error| Failure::new(Code::Operation, format!("setting up signals: {error}"), "please report this"))?;
    INTERRUPTED.get_or_init(|| asked);
    Ok(())
}

#[cfg(unix)]
fn arm(asked: &Arc<AtomicBool>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGXFSZ};
    use signal_hook::flag;
    // The order matters: the exit looks at the flag as the signal before left it.
    flag::register_conditional_shutdown(SIGINT, Code::Interrupted as i32, Arc::clone(asked))?;
    flag::register(SIGINT, Arc::clone(asked))?;
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// Elsewhere Ctrl-C ends the process at once, which a store survives as it survives a kill.
#[cfg(not(unix))]
fn arm(_asked: &Arc<AtomicBool>) -> std::io::Result<()> {
    Ok(())
}

/// Whether Ctrl-C came. Only for verbs that finish first.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
}
