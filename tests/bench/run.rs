//! One host from power-on to off, with a clock.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::Serialize;
use virt_unlock::{
    event::Phase,
    timeline::{self, Timeline},
};

use crate::{
    PASSPHRASE,
    contender::Contender,
    disk::Disk,
    folder,
    host::{Host, secs},
    names,
};

/// Until all is up, or off, whatever the machine does besides.
const LIMIT: Duration = secs(900);
/// Enough for sixteen emulated guests; the same for all.
const MEMORY_MIB: u32 = 4096;

/// Without udev (lvm.conf(5)).
const LVM: &str = "devices { obtain_device_list_from_udev = 0 } activation { udev_sync = 0 udev_rules = 0 }";

/// What was seen, in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// From power-on to the question.
    pub question: f64,
    /// From power-on to the last volume open.
    pub last_open: f64,
    /// From power-on to the last guest up.
    pub last_guest: f64,
    /// From the order to off.
    pub power_off: f64,
    /// What all processors of the host have worked until then, and by how many it could be shared: who is as quick as that is bound
    /// by them.
    pub busy: f64,
    /// See there.
    pub processors: f64,
    /// How many keys were derived.
    pub derivations: usize,
    /// What the units took, by their names.
    pub units: BTreeMap<String, Unit>,
    /// From the last answer to the end, and how much of that nobody else had anything to do; virt-unlock alone tells it.
    pub after_answer: Option<f64>,
    /// See there.
    pub own: Option<f64>,
}

/// What a unit took until all was up, where systemd tells it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unit {
    /// The most memory.
    pub peak_memory_mib: Option<u64>,
    /// Seconds of all processors.
    pub cpu: Option<f64>,
}

impl Run {
    /// From the question to the last volume open.
    pub fn unlock(&self) -> f64 {
        self.last_open - self.question
    }

    /// In one line.
    pub fn in_words(&self) -> String {
        format!(
            "question {:.1} s, last volume {:.1} s, last guest {:.1} s, power-off {:.1} s, {:.0} s of {} processors, {} keys, own {:?}, {:?}",
            self.question,
            self.last_open,
            self.last_guest,
            self.power_off,
            self.busy,
            self.processors,
            self.derivations,
            self.own,
            self.units
        )
    }
}

/// Boots the host, brings all up, looks, and switches it off.
pub fn run(name: &str, contender: Contender, count: usize, disk: &Disk, installed: &Path) -> Run {
    let builder = Host::builder(name).tree(installed).disk(&disk.path).memory_mib(MEMORY_MIB);
    let mut host = contender.on(builder, count, disk).power_on();
    let question = host.console().expect(contender.question(), secs(180)).at;
    host.console().type_line(PASSPHRASE);
    host.await_shell();

    // Nothing is started for that but a sleep: looking takes time from what is looked at.
    let up = "for log in /var/log/guests/v*.log; do [ -s \"$log\" ] && up=$((up + 1)); done";
    let awaited = format!("up=0; until [ $up = {count} ]; do sleep 2; up=0; {up}; done");
    let output = host.shell_within(&awaited, LIMIT);
    if output.status != 0 {
        host.console().fail(&format!("not every guest came up: {output}"));
    }
    // proc_stat(5): all but idle, iowait, and what guests were given, which is part of user.
    let work =
        host.run("awk '/^cpu / { print ($2 + $3 + $4 + $7 + $8) / 100 } /^cpu[0-9]/ { count++ } END { print count }' /proc/stat");
    let mut work = numbers(&work);
    let mut next = || work.next().unwrap_or(0.0);
    let (busy, processors) = (next(), next());
    host.shell_within("systemctl is-system-running --wait", LIMIT);

    let clock = Clock::of(&host);
    let guests = host.run("stat -c %.6Y /var/log/guests/v*.log");
    let last_guest = clock.real(largest(&guests));
    let way = (contender != Contender::Crypttab).then(|| way(&host, name));
    let opens: Vec<f64> = if let Some(way) = &way {
        let keys = way.bars().filter(|bar| bar.phase == Phase::Key);
        keys.map(|bar| micros(bar.end)).collect()
    } else {
        let active = host.run("systemctl show -P ActiveEnterTimestampMonotonic 'systemd-cryptsetup@v*.service'");
        numbers(&active).map(|micros| micros / 1e6).collect()
    };
    assert!(opens.len() >= count, "{name}: only {opens:?} are open");
    let last_open = clock.monotonic(opens.iter().copied().fold(0.0, f64::max));

    let units = units(&host);
    let power_off = switch_off(&mut host);
    // One of them: each costs a derivation. The logs do not tell: libvirt's log daemon may be stopped first.
    let last = names(count).pop().unwrap_or_default();
    let disks = host.examine_with(&format!(
        "lvm lvchange -qq -ay bench/{last} --config '{LVM}' && printf '{PASSPHRASE}' | cryptsetup open --key-file - /dev/bench/{last} {last} && \
         dd if=/dev/mapper/{last} bs=512 skip=2056 count=1 status=none | od -An -tu2 -j64 -N2"
    ));
    let told = disks.output().trim();
    assert_eq!(told, "1", "{name}: guest {last} was not asked to stop, or had no time for it");
    Run {
        question: question.as_secs_f64(),
        last_open,
        last_guest,
        power_off,
        busy,
        processors,
        derivations: opens.len(),
        units,
        after_answer: way.as_ref().map(|way| micros(way.after_answers())),
        own: way.as_ref().map(|way| micros(way.own())),
    }
}

/// What systemd has counted of each unit; of several of one kind the largest.
fn units(host: &Host) -> BTreeMap<String, Unit> {
    let text = host.run(
        "for unit in virt-unlock.service virt-unlock-guests.service libvirtd.service 'systemd-cryptsetup@v*.service'; do \
         for what in MemoryPeak CPUUsageNSec; do \
         set -- \"$unit\" $(systemctl show -P $what \"$unit\" | sort -n | tail -1); echo \"$1 $what ${2:-?}\"; done; done",
    );
    let mut units: BTreeMap<String, Unit> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [unit, what, count] = words[..] else { continue };
        // "[not set]" where systemd does not count, or does not any more.
        let Ok(count) = count.parse::<u64>() else { continue };
        let unit = units.entry(unit.to_owned()).or_default();
        match what {
            "MemoryPeak" => unit.peak_memory_mib = Some(count >> 20),
            _ => unit.cpu = Some(micros(count / 1000)),
        }
    }
    units
}

/// Seconds from the order to off.
fn switch_off(host: &mut Host) -> f64 {
    host.run("sleep 5; echo 'BENCH OFF' >/dev/console; systemctl --no-block poweroff");
    let ordered = host.console().expect("BENCH OFF", secs(30)).at;
    host.await_off(LIMIT);
    let off = host.console().seen("reboot: Power down").at;
    off.saturating_sub(ordered).as_secs_f64()
}

/// The way up as the journal tells it; drawn below target/bench too.
fn way(host: &Host, name: &str) -> Timeline {
    let lines = host.run(
        "journalctl -b -q --no-pager --all -o json -t virt-unlock \
         --output-fields=MESSAGE_ID,PRIORITY,VIRT_UNLOCK_LAYER,VIRT_UNLOCK_SPAN",
    );
    let way = Timeline::last(&timeline::entries(&lines), u64::MAX)
        .unwrap_or_else(|| host.console().fail("the journal tells of no way up"));
    let _ = fs::write(folder().join(format!("{name}.svg")), timeline::svg(&way));
    let _ = fs::write(folder().join(format!("{name}.txt")), host.run("virt-unlock timeline"));
    let _ = fs::write(folder().join(format!("{name}.json")), lines);
    way
}

/// The clocks of the host against the one that runs since power-on.
struct Clock {
    real: f64,
    monotonic: f64,
}

impl Clock {
    fn of(host: &Host) -> Self {
        host.run("read up _ </proc/uptime; echo \"BENCH CLOCK $EPOCHREALTIME $up\" >/dev/console");
        let (line, at) = host.console().line_after("BENCH CLOCK ", secs(30));
        let mut clocks = numbers(&line);
        let mut next = || clocks.next().unwrap_or_else(|| panic!("no clock in {line:?}"));
        Self {
            real: at.as_secs_f64() - next(),
            monotonic: at.as_secs_f64() - next(),
        }
    }

    fn real(&self, seconds: f64) -> f64 {
        self.real + seconds
    }

    fn monotonic(&self, seconds: f64) -> f64 {
        self.monotonic + seconds
    }
}

fn numbers(text: &str) -> impl Iterator<Item = f64> {
    text.split_whitespace().filter_map(|word| word.parse().ok())
}

fn largest(text: &str) -> f64 {
    numbers(text).fold(0.0, f64::max)
}

#[allow(clippy::cast_precision_loss, reason = "hours are far below what is lost")]
fn micros(count: u64) -> f64 {
    count as f64 / 1e6
}
