//! The command line: arguments only. Man pages and completions are made from it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  virt-unlock discover             write a starting configuration for this host
  virt-unlock plan                 what `up` would do, and why; touches nothing
  virt-unlock up                   ask, open, mount and start everything
  virt-unlock up mailserver        only this guest, and what it needs
  virt-unlock down vm              stop what uses volume vm, unmount and close it
  virt-unlock status               every volume and guest, and why it is not as it should be
  systemctl enable virt-unlock     do all this at every boot and shutdown

Exit status: 0 all as asked; 1 something is not (the rest was done); 2 the configuration or the
command line is wrong (nothing was touched); 3 not allowed, or a needed service is not there.

Configuration: /etc/virt-unlock/config.toml and /etc/virt-unlock/config.d/*.toml";

/// Opens this host's LUKS volumes, starts the guests that live on them, and takes it all down again in good order.
#[derive(Debug, Parser)]
#[command(name = "virt-unlock", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Read this file, and config.d/*.toml beside it, instead of /etc/virt-unlock/config.toml.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Say more: also each step, and what needed nothing.
    #[arg(short, long, global = true)]
    pub verbose: bool,

    /// Say only what is not as it should be.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open volumes, mount them, start their guests.
    ///
    /// Asks for each passphrase in dependency order. What is up already is left alone, so it can be repeated at any time. If the
    /// service has a question open, it is asked here instead.
    Up {
        /// Volumes or guests to bring up, with all that they need. None: everything.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },

    /// Stop guests, unmount and close their volumes.
    ///
    /// Each guest is asked to shut down; what happens to one that does not is said in the configuration (stop-timeout,
    /// on-stop-timeout). A volume that is still in use stays open, and it says who uses it.
    Down {
        /// An emergency: pull the plug of every guest, close what can be closed within seconds, and take the key of what cannot out of
        /// the kernel. Guests lose what they have not written; what still uses such a volume hangs.
        #[arg(long)]
        now: bool,
        /// Volumes or guests to bring down, with all that depends on them. None: everything.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },

    /// Show every volume and guest, now, and why it is not as it should be.
    ///
    /// The exit status is 0 only if everything that is wanted is up.
    Status {
        /// For programs: one JSON document (its "version" is 1; keys are added, never changed).
        #[arg(long)]
        json: bool,
    },

    /// Show what `up` or `down` would do, and why. Touches nothing.
    ///
    /// The exit status is 1 if something of it cannot be done.
    Plan(PlanArgs),

    /// Compare the configuration with this host. Every problem at once, each with its remedy.
    ///
    /// Changes nothing. Warnings leave the exit status at 0. -v also notes what this host does in another way than others.
    Check,

    /// Write a starting configuration for this host to standard output.
    ///
    /// Looks at LUKS headers, open volumes, mounts, libvirt's guests and pools, /etc/crypttab and /etc/fstab. It asks for nothing
    /// and changes nothing, and it needs no configuration. Each volume of a guest gets a table; what cannot be told from outside
    /// stands in a comment that begins with "doubt". Volumes of the host itself (root, swap, /home) are left out.
    ///
    /// On a host that works by crypttab it says line by line what moves, what stays, and which options have no counterpart.
    ///
    /// What it writes is always a valid configuration: virt-unlock discover > /etc/virt-unlock/config.toml, then read it, and
    /// then `virt-unlock check`. The exit status is 1 if libvirt did not answer, so that its guests are missing.
    Discover,

    /// Draw the last way up of this boot: what each volume and guest spent its time with.
    ///
    /// Questions, key derivations, mounts and starts of guests as bars over time, as far as the units did them and the journal still
    /// has it.
    Timeline {
        /// A picture on standard output: virt-unlock timeline --svg > way.svg
        #[arg(long)]
        svg: bool,
    },

    /// Make masters, and let them open volumes.
    #[command(subcommand)]
    Master(MasterCommand),

    /// What the systemd units run; not for people.
    #[command(hide = true)]
    Service {
        /// Whose work.
        part: Part,
        /// Which way.
        way: Way,
        /// Of virt-unlock@NAME.service: its NAME as it stands in the unit's own name, with systemd's escapes.
        #[arg(required_if_eq("part", "named"))]
        name: Option<String>,
    },

    /// What libvirt's hook runs before a guest starts; not for people.
    #[command(hide = true)]
    Hook,

    /// What the dracut module runs; not for people.
    #[command(hide = true)]
    Initramfs {
        /// What it wants.
        part: InitramfsPart,
    },
}

/// `master`
#[derive(Debug, Subcommand)]
pub enum MasterCommand {
    /// Make the header of a master.
    ///
    /// The master has a [master.NAME] table in the configuration, which says where its header lies. Its new passphrase is asked for
    /// twice; where the table names key files and no passphrase, the first of them is its key. A file that is there is left as it is.
    Create {
        /// The master.
        #[arg(value_name = "MASTER")]
        master: String,
    },

    /// Let a master open volumes.
    ///
    /// Opens the master, then asks for each volume's own passphrase, and adds a keyslot to its header with a token that marks it. All
    /// other keyslots stay. A volume that is enrolled already is left as it is, and an enrolment that was interrupted is completed.
    Enroll {
        /// The master.
        #[arg(value_name = "MASTER")]
        master: String,
        /// The volumes, by their names in the configuration.
        #[arg(value_name = "VOLUME", required = true)]
        volumes: Vec<String>,
    },

    /// Take from a master what lets it open volumes.
    ///
    /// Removes its keyslot and its token from the volumes' headers. It needs no passphrase. A volume that nothing else opens is left
    /// as it is.
    Revoke {
        /// The master.
        #[arg(value_name = "MASTER")]
        master: String,
        /// The volumes, by their names in the configuration.
        #[arg(value_name = "VOLUME", required = true)]
        volumes: Vec<String>,
    },

    /// Show every master, and the volumes that it opens.
    ///
    /// The exit status is 1 if a header cannot be read, or a volume that names a master is not enrolled with it.
    List {
        /// For programs: one JSON document (its "version" is 1; keys are added, never changed).
        #[arg(long)]
        json: bool,
    },
}

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The way down instead of the way up.
    #[arg(long)]
    pub down: bool,
    /// For programs: one JSON document.
    #[arg(long, conflicts_with = "dot")]
    pub json: bool,
    /// A graph for Graphviz: virt-unlock plan --dot | dot -Tsvg > plan.svg
    #[arg(long)]
    pub dot: bool,
    /// Volumes or guests. None: everything.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// One of the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// virt-unlock.service
    Volumes,
    /// virt-unlock-guests.service
    Guests,
    /// virt-unlock@NAME.service
    Named,
}

/// What the dracut module wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitramfsPart {
    /// In the initramfs: ask for its volumes and open them.
    Open,
    /// The configuration for the initramfs; nothing where no volume is opened there.
    Config,
    /// The files that this configuration names, line by line.
    Files,
    /// The encrypted devices of its volumes that are there now, line by line.
    Devices,
    /// The ciphers of those devices, line by line, by the names that the kernel has for them.
    Ciphers,
    /// The types of the tokens that may open its volumes, or their masters, line by line.
    Tokens,
    /// The devices that its key files lie on, line by line: where each is now, or how the configuration names it.
    KeyDevices,
    /// How long `open` may take, in seconds.
    Limit,
}

/// Its `ExecStart=` or its `ExecStop=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// `ExecStart=`
    Up,
    /// `ExecStop=`
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
