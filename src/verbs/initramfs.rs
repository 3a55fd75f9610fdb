//! What the dracut module runs: while the initramfs is made, for what is to go into it; and in the initramfs, to ask and open.
//! What is not answered there is asked for again by virt-unlock.service, so nothing here may hold up the boot for longer than
//! `hold-login`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::session::Session;
use super::up::{is_of_volumes, unlocker, walk_here};
use super::{App, Failure, Verdict, answer, notes};
use crate::cancel::Cancel;
use crate::cli::InitramfsPart;
use crate::config::{self, Master, Unlock, Volume};
use crate::event::{Events, Happened};
use crate::host::lock::{Demand, FOLDER, Part};
use crate::host::orders::Orders;
use crate::host::tokens;
use crate::monitor::Monitor;
use crate::plan::{self, Names};
use crate::report::Report;
use crate::text;

/// What the lock says who has it.
const UNIT: &str = "virt-unlock-initramfs.service";

/// Does one part of it.
pub(super) fn initramfs(app: &App, part: InitramfsPart) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let text = match part {
        InitramfsPart::Open => return open(app, &session),
        InitramfsPart::Config => config::for_initramfs(&session.config).unwrap_or_default(),
        InitramfsPart::Files => lines(config::files_for_initramfs(&session.config).iter().map(|file| file.display())),
        InitramfsPart::Devices => lines(devices(&session).map(|(_, device)| device.display().to_string())),
        InitramfsPart::Ciphers => lines(ciphers(&session)?.into_iter()),
        InitramfsPart::Tokens => lines(token_types(&session)?.into_iter()),
        InitramfsPart::KeyDevices => lines(config::key_devices_for_initramfs(&session.config).iter().map(|device| {
            let now = session.host.devices.find_filesystem(device);
            now.map_or(device.to_string(), |now| now.path.display().to_string())
        })),
        InitramfsPart::Limit => lines([longest(session.config.host.hold_login).as_secs()].into_iter()),
    };
    answer(&text)?;
    Ok(Verdict::AsAsked)
}

/// The volumes of the initramfs whose devices are there now.
fn devices(session: &Session) -> impl Iterator<Item = (&Volume, PathBuf)> {
    let asked_there = session.config.volumes.iter().filter(|volume| volume.initramfs);
    asked_there.filter_map(|volume| Some((volume, session.host.devices.find(&volume.device)?.path)))
}

/// A header that cannot be read now tells nothing, here as later.
fn ciphers(session: &Session) -> Result<BTreeSet<String>, Failure> {
    let cancel = Cancel::new()?;
    let headers = devices(session).filter_map(|(volume, device)| session.host.volumes.probe(volume, &device, &cancel).ok());
    Ok(headers.map(|header| header.cipher).collect())
}

/// By these names there are plug-ins of libcryptsetup, which takes no others (`lib/luks2/luks2_token.c`).
fn token_types(session: &Session) -> Result<BTreeSet<String>, Failure> {
    let (cancel, config, host) = (Cancel::new()?, &session.config, &session.host.volumes);
    let of_volumes = devices(session).filter(|(volume, _)| volume.unlock.contains(&Unlock::Token));
    let of_volumes = of_volumes.filter_map(|(volume, device)| host.probe(volume, &device, &cancel).ok());
    let is_asked_there = |master: &&Master| {
        let mut volumes = config.volumes.iter().filter(|volume| volume.initramfs);
        master.unlock.contains(&Unlock::Token) && volumes.any(|volume| volume.is_opened_by(&master.name))
    };
    let of_masters = config.masters.iter().filter(is_asked_there);
    let of_masters = of_masters.filter_map(|master| host.probe_master(master, &cancel).ok());
    let tokens = of_volumes.chain(of_masters).flat_map(|header| header.others);
    let is_name = |kind: &String| kind.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    Ok(tokens
        .filter(tokens::is_source)
        .map(|token| token.kind)
        .filter(is_name)
        .collect())
}

fn lines(all: impl Iterator<Item = impl std::fmt::Display>) -> String {
    all.fold(String::new(), |text, one| text + &one.to_string() + "\n")
}

/// When systemd may take it that this program hangs: the time for the devices, that for the answers, and some for what is
/// being done at their end.
fn longest(hold_login: Duration) -> Duration {
    hold_login * 2 + Duration::from_secs(60)
}

fn open(app: &App, session: &Session) -> Result<Verdict, Failure> {
    let orders = Orders::listen(|_| true)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_volumes);
    let limit = session.config.host.hold_login;
    let over = Limit::begin(limit, &orders.cancel())?;
    let (shown, asked) = (report.events(), Arc::clone(&over.asked));
    let events = Events::new(move |event| {
        if matches!(event.happened, Happened::Asking(_)) {
            asked.update(|asked| *asked = true);
        }
        shown.pass(event);
    });

    let _lock = Session::lock(Part::Volumes, UNIT, Demand::Patience, &events, &over.cancel)?;
    let facts = session.facts(None, &events, &over.cancel)?;
    let graph = session.graph(&facts)?;
    let plan = plan::up(&session.config, &facts, &graph, &Names::default())?;
    let unlocker = unlocker(session, &plan, notes::waiting_guests(&session.config, &facts, &graph));
    let summary = walk_here(session, &plan, &facts, unlocker, &events, &over.cancel)?;
    if !summary.is_good() {
        let why = if over.cancel.is_raised() {
            format!("not every volume was opened within {}", text::duration(limit))
        } else {
            "not every volume was opened".to_owned()
        };
        events.say(
            None,
            Happened::Warning(format!(
                "{why}; the boot goes on, and virt-unlock.service asks for what is still closed"
            )),
        );
    }
    // The boot is not worse off than without us: no failed unit is left over in the running system.
    Ok(Verdict::AsAsked)
}

/// Ends the asking: when no question could be asked for as long as the limit, or when one has been open for so long.
struct Limit {
    asked: Arc<Monitor<bool>>,
    cancel: Cancel,
}

impl Limit {
    fn begin(limit: Duration, order: &Cancel) -> Result<Self, Failure> {
        let (asked, cancel) = (Arc::new(Monitor::new(false)), order.child()?);
        let (heard, end) = (Arc::clone(&asked), cancel.clone());
        thread::Builder::new().name("limit".to_owned()).spawn(move || {
            if heard.wait(Some(limit), &end, |asked| asked.then_some(())).is_ok() {
                end.wait(limit);
            }
            end.raise();
        })?;
        Ok(Self { asked, cancel })
    }
}
