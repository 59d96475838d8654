//! How much memory the control group of the process allows (the kernel's admin-guide/cgroup-v2).

use std::path::Path;

/// Where control groups are, as a rule.
const ROOT: &str = "/sys/fs/cgroup";

/// The least limit in bytes of the group of this process and of the ones that it is in; `None` without.
pub fn memory_limit() -> Option<u64> {
    limit(Path::new(ROOT), &std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The same for a process of which this is `/proc/self/cgroup`.
fn limit(root: &Path, groups: &str) -> Option<u64> {
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let first = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "memory").then_some(path)
    });
    let (root, path, file) = match (unified, first) {
        (_, Some(path)) => (root.join("memory"), path, "memory.limit_in_bytes"),
        (Some(path), None) => (root.to_owned(), path, "memory.max"),
        (None, None) => return None,
    };
    let path = root.join(path.trim_start_matches('/'));
    let above = path.ancestors().take_while(|folder| folder.starts_with(&root));
    let limits = above.filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok());
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("system.slice/job.service");
        std::fs::create_dir_all(&group).unwrap();
        let set = |folder: &Path, file: &str, limit: &str| {
            let mut file = std::fs::File::create(folder.join(file)).unwrap();
            std::io::Write::write_all(&mut file, format!("{limit}\n").as_bytes()).unwrap();
        };
        let of = |groups: &str| limit(root.path(), groups);
        assert_eq!(of("0::/system.slice/job.service\n"), None);
        set(&group, "memory.max", "max");
        assert_eq!(of("0::/system.slice/job.service\n"), None);
        set(&root.path().join("system.slice"), "memory.max", "2000");
        set(&group, "memory.max", "3000");
        assert_eq!(of("0::/system.slice/job.service\n"), Some(2000));
        let first = root.path().join("memory/docker");
        std::fs::create_dir_all(&first).unwrap();
        set(&first, "memory.limit_in_bytes", "500");
        assert_eq!(of("5:cpu:/x\n4:memory:/docker\n0::/system.slice/job.service\n"), Some(500));
        assert_eq!(of(""), None);
    }
}
