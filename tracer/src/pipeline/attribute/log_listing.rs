//! Which names container logs have on this node.
//!
//! Owns the listing of kubelet's two directories below `/var/log`: `containers`, whose entries name a container
//! by its id, and `pods`, whose entries name a pod by its UID. Lists names and opens nothing; time is passed in.
//! Logs nothing. What the directories of a pod hold is not listed: they name its containers, but not by id.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::log_names::{self, ContainerName, PodName};
use crate::errand::{Errands, Limits};

/// How many names of each kind are held: a node of 500 pods with six containers each, after five restarts of
/// all. At 300 bytes each that is 5 MB.
pub const NAMES_MAX: usize = 16_384;

/// The shortest time from one listing to the next. One of a thousand names takes a millisecond.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The names as of the last listing.
pub struct LogListing {
    root: PathBuf,
    containers: Option<HashMap<Box<str>, ContainerName>>,
    pods: Option<HashMap<Box<str>, PodName>>,
    listed: Option<Instant>,
    /// Whether nobody waits for further names.
    is_final: bool,
    /// Lists: the logs may be on a file system whose server is gone.
    lister: Errands<()>,
    /// Why a directory was not listed the last time.
    trouble: Option<(PathBuf, io::Error)>,
}

/// A listing takes a few milliseconds, and whoever waits for it holds up a scrape.
const LIMITS: Limits = Limits { time: Duration::from_secs(2), left_behind: 1 };

/// What both directories list.
struct Listed {
    containers: io::Result<HashMap<Box<str>, ContainerName>>,
    pods: io::Result<HashMap<Box<str>, PodName>>,
}

impl LogListing {
    /// Of `containers` and `pods` below `root`, which is `/var/log` outside tests; nothing is read yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            containers: None,
            pods: None,
            listed: None,
            is_final: false,
            lister: Errands::new("logs", LIMITS),
            trouble: None,
        }
    }

    /// The same for whoever looks once: what has no name now gets none, and nobody waits for it.
    #[must_use]
    pub fn as_it_is(self) -> Self {
        Self { is_final: true, ..self }
    }

    /// The names of the container with this id.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<&ContainerName> {
        self.containers.as_ref()?.get(id)
    }

    /// The names of the pod with this UID.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<&PodName> {
        self.pods.as_ref()?.get(uid)
    }

    /// Whether there was a directory of container logs, so that an id without a name there has none.
    #[must_use]
    pub fn has_containers(&self) -> bool {
        self.containers.is_some()
    }

    /// Whether names may still come: a kubelet keeps directories here.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.is_final && (self.containers.is_some() || self.pods.is_some())
    }

    /// How many names of containers and of pods are held.
    #[must_use]
    pub fn sizes(&self) -> [usize; 2] {
        [self.containers.as_ref().map_or(0, HashMap::len), self.pods.as_ref().map_or(0, HashMap::len)]
    }

    /// Lists anew, at most once a second; whether it did.
    pub fn refresh(&mut self, now: Instant) -> bool {
        if self.listed.is_some_and(|listed| now.saturating_duration_since(listed) < REFRESH_INTERVAL) {
            return false;
        }
        self.listed = Some(now);
        let [containers, pods] = ["containers", "pods"].map(|name| self.root.join(name));
        let paths = [containers.clone(), pods.clone()];
        let listed = self.lister.run((), move || Listed {
            containers: list(&containers, log_names::container_log),
            pods: list(&pods, log_names::pod_logs),
        });
        self.trouble = match listed {
            Ok(listed) => {
                let troubles = [take(&mut self.containers, listed.containers), take(&mut self.pods, listed.pods)];
                paths.into_iter().zip(troubles).find_map(|(path, trouble)| Some((path, trouble?)))
            }
            Err(error) => Some((self.root.clone(), error)),
        };
        true
    }

    /// The directory that was not listed the last time, and why; an error of kind `TimedOut` says that it hangs.
    #[must_use]
    pub fn trouble(&self) -> Option<(&Path, &io::Error)> {
        self.trouble.as_ref().map(|(path, error)| (path.as_path(), error))
    }
}

/// A directory that is not there has no names; where one cannot be read, the old ones stay, and the error is given back.
fn take<T>(held: &mut Option<T>, listed: io::Result<T>) -> Option<io::Error> {
    match listed {
        Ok(names) => *held = Some(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => *held = None,
        Err(error) => return Some(error),
    }
    None
}

fn list<T>(directory: &Path, parse: impl Fn(&str) -> Option<(&str, T)>) -> io::Result<HashMap<Box<str>, T>> {
    let mut names = HashMap::new();
    for entry in fs::read_dir(directory)?.flatten() {
        if names.len() == NAMES_MAX {
            break;
        }
        let name = entry.file_name();
        if let Some((id, found)) = name.to_str().and_then(&parse) {
            names.insert(id.into(), found);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const UID: &str = "6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

    fn id(number: usize) -> String {
        format!("{number:064x}")
    }

    #[test]
    fn names_are_listed_at_most_once_a_second() {
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join("containers");
        fs::create_dir(&logs).unwrap();
        let start = Instant::now();
        let mut listing = LogListing::new(root.path());
        assert!(listing.refresh(start));
        assert!(listing.container(&id(1)).is_none());

        // As kubelet makes them: a link that leads nowhere from here.
        let link = logs.join(format!("web-0_shop_app-{}.log", id(1)));
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        assert!(!listing.refresh(start + SECOND / 2));
        assert!(listing.container(&id(1)).is_none());
        assert!(listing.refresh(start + SECOND));
        assert_eq!(&*listing.container(&id(1)).unwrap().container, "app");

        fs::remove_file(&link).unwrap();
        assert!(listing.refresh(start + SECOND * 2));
        assert!(listing.container(&id(1)).is_none());
    }

    #[test]
    fn a_directory_may_be_missing_and_come() {
        let root = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut listing = LogListing::new(root.path());
        listing.refresh(start);
        assert!(!listing.is_kept() && !listing.has_containers());
        fs::create_dir_all(root.path().join(format!("pods/shop_web-0_{UID}/app"))).unwrap();
        listing.refresh(start + SECOND);
        assert!(listing.is_kept() && !listing.has_containers());
        assert_eq!(&*listing.pod(UID).unwrap().pod, "web-0");
        fs::create_dir(root.path().join("containers")).unwrap();
        listing.refresh(start + SECOND * 2);
        assert!(listing.has_containers());
        assert_eq!(listing.sizes(), [0, 1]);
    }

    #[test]
    fn a_directory_that_cannot_be_listed_keeps_its_names() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        fs::create_dir_all(pods.join(format!("shop_web-0_{UID}"))).unwrap();
        let start = Instant::now();
        let mut listing = LogListing::new(root.path());
        listing.refresh(start);
        fs::remove_dir_all(&pods).unwrap();
        fs::write(&pods, "no directory").unwrap();
        assert!(listing.trouble().is_none());
        listing.refresh(start + SECOND);
        assert!(listing.pod(UID).is_some());
        assert_eq!(listing.trouble().unwrap().0, pods);
    }

    #[test]
    fn no_more_names_than_the_limit_are_held() {
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join("containers");
        fs::create_dir(&logs).unwrap();
        for number in 0..NAMES_MAX + 10 {
            fs::write(logs.join(format!("p_n_c-{}.log", id(number))), "").unwrap();
        }
        let mut listing = LogListing::new(root.path());
        listing.refresh(Instant::now());
        assert_eq!(listing.sizes(), [NAMES_MAX, 0]);
    }
}
