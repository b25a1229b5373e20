//! Descriptors of this process, where a test holds many sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process have `enough` descriptors. Beyond the hard limit only a process with `CAP_SYS_RESOURCE` may go.
pub(crate) fn have_descriptors(enough: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= enough) {
        return;
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(enough));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(enough), maximum });
    raised.unwrap_or_else(|error| {
        panic!("the test needs {enough} descriptors and may have {:?} (ulimit -H -n): {error}", limit.maximum)
    });
}
