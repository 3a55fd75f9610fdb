//! Memory that can be had without swapping.

use std::path::Path;

use super::Kernel;

impl Kernel {
    /// What the machine has free, and not more than the limit of our own control group, or of one above it, leaves.
    pub(super) fn free_memory(&self) -> u64 {
        // Without an answer nothing is held back here: the kernel itself then says no where there is too little.
        let machine = self.meminfo_available().unwrap_or(u64::MAX);
        machine.min(self.group_leaves().unwrap_or(u64::MAX))
    }

    fn meminfo_available(&self) -> Option<u64> {
        let text = self.text("/proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// What the tightest memory.max on the way from our control group to the root leaves; `None`: there is no limit.
    fn group_leaves(&self) -> Option<u64> {
        let text = self.text("/proc/self/cgroup")?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let top = Path::new("/sys/fs/cgroup");
        let groups = Path::new(own).ancestors().map(|group| top.join(group));
        groups.filter_map(|group| self.leaves(&group)).min()
    }

    /// What one control group leaves (Documentation/admin-guide/cgroup-v2.rst). File pages that were not used lately count as
    /// free: the kernel drops them before it says no.
    fn leaves(&self, group: &Path) -> Option<u64> {
        let limit: u64 = self.text(group.join("memory.max"))?.parse().ok()?;
        let used: u64 = self.text(group.join("memory.current"))?.parse().ok()?;
        let stat = self.text(group.join("memory.stat")).unwrap_or_default();
        let cache = stat
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok());
        Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Machine;
    use super::*;

    #[test]
    fn the_machine_s_free_memory_counts_where_no_group_limits_it() {
        let machine = Machine::new();
        assert_eq!(machine.kernel().free_memory(), u64::MAX);
        machine.write(
            "/proc/meminfo",
            "MemTotal:  4000 kB\nMemFree:   100 kB\nMemAvailable:    2000 kB\n",
        );
        assert_eq!(machine.kernel().free_memory(), 2000 << 10);
        machine.write("/proc/self/cgroup", "0::/system.slice/a.service\n");
        machine.write("/sys/fs/cgroup/system.slice/a.service/memory.max", "max\n");
        machine.write("/sys/fs/cgroup/system.slice/a.service/memory.current", "5\n");
        assert_eq!(machine.kernel().free_memory(), 2000 << 10);
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let machine = Machine::new();
        machine.write("/proc/meminfo", "MemAvailable: 2000 kB\n");
        machine.write("/proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/a.service\n");
        let group = |group: &str, limit: &str, used: &str| {
            machine.write(&format!("/sys/fs/cgroup/{group}/memory.max"), limit);
            machine.write(&format!("/sys/fs/cgroup/{group}/memory.current"), used);
        };
        group("system.slice/a.service", "500000\n", "100000\n");
        assert_eq!(machine.kernel().free_memory(), 400_000);
        machine.write(
            "/sys/fs/cgroup/system.slice/a.service/memory.stat",
            "anon 1\ninactive_file 30000\n",
        );
        assert_eq!(machine.kernel().free_memory(), 430_000);
        group("system.slice", "300000\n", "299000\n");
        assert_eq!(machine.kernel().free_memory(), 1000);
        group("system.slice", "300000\n", "400000\n");
        assert_eq!(machine.kernel().free_memory(), 0);
    }

    #[test]
    fn this_machine_s_memory_is_read() {
        let free = Kernel::new().free_memory();
        assert!(free > 1 << 20 && free < 1 << 50, "{free}");
    }
}
