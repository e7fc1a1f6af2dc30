//! `modifyvm`: one table of settings, split by subject. An option's entry reads its values and
//! gives the change; changes are made in the order of the command line once all of it is
//! understood, and saved together.

mod devices;
mod network;
mod system;

use super::{Command, Form, form};
use crate::args::{Arg, Args, Given, Opt, on_off};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use api::client::Machine;
use api::types::LockType;

pub use devices::UartMode;
pub use network::remove_or_add_forward;

pub const COMMAND: Command = Command {
    name: "modifyvm",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

/// What an option does to the machine.
pub type Change = Box<dyn FnOnce(&Machine) -> Result>;

/// One option of `modifyvm`.
pub struct Setting {
    pub opt: Opt,
    /// What follows it, for the usage text.
    pub values: &'static str,
    /// Reads further values if it takes several.
    pub read: fn(Given, &mut Args) -> Result<Change>,
}

impl AsRef<Opt> for Setting {
    fn as_ref(&self) -> &Opt {
        &self.opt
    }
}

/// Options of VirtualBox whose room is not built yet, with a number where it stands for one.
const NOT_YET: &[&str] = &[
    "--pciattach",
    "--pci-attach",
    "--pcidetach",
    "--pci-detach",
    "--hwvirtexexcl",
    "--synthcpu",
    "--testing-enabled",
    "--testing-mmio",
    "--testing-cfg-dword",
    "--usbrename",
    "--usb-rename",
    "--recordingscreens",
    "--recording-screens",
    "--recordingfile",
    "--recording-file",
    "--recordingmaxsize",
    "--recording-max-size",
    "--recordingmaxtime",
    "--recording-max-time",
    "--recordingopts",
    "--recording-opts",
    "--recordingvideofps",
    "--recording-video-fps",
    "--recordingvideorate",
    "--recording-video-rate",
    "--recordingvideores",
    "--recording-video-res",
    "--videocapscreens",
    "--videocapfile",
    "--videocapres",
    "--videocaprate",
    "--videocapfps",
    "--videocapmaxtime",
    "--videocapmaxsize",
    "--videocapopts",
    "--teleporterpasswordfile",
    "--teleporter-password-file",
    "--faulttolerance",
    "--faulttoleranceaddress",
    "--faulttoleranceport",
    "--faulttolerancepassword",
    "--faulttolerancesyncinterval",
    "--nicgenericproperty",
    "--cloud-network",
    "--x86-execution-engine",
    "--execution-engine",
];

fn settings() -> impl Iterator<Item = &'static Setting> {
    [system::SETTINGS, network::SETTINGS, devices::SETTINGS]
        .into_iter()
        .flatten()
}

fn usage() -> String {
    let mut text = "  VBoxManage modifyvm <uuid | vmname>".to_owned();
    let mut width = text.len();
    for setting in settings() {
        let name = setting.opt.names.first().copied().unwrap_or_default();
        let number = if setting.opt.numbered { "N" } else { "" };
        let option = match setting.values {
            "" => format!("[{name}{number}]"),
            values => format!("[{name}{number}={values}]"),
        };
        if width + option.len() >= 98 {
            text.push_str("\n     ");
            width = 5;
        }
        width += option.len() + 1;
        text.push(' ');
        text.push_str(&option);
    }
    text.push('\n');
    text
}

fn forms() -> Vec<Form> {
    let table: Vec<Opt> = settings().map(|s| s.opt).collect();
    vec![form("", &table)]
}

fn parse(args: &mut Args) -> Result<(String, Vec<Change>)> {
    let machine = args.required("machine name or UUID")?;
    let mut changes = Vec::new();
    let table: Vec<&'static Setting> = settings().collect();
    loop {
        if let Some(option) = args.peek().filter(|o| is_not_yet(o)) {
            return Err(Failure::message(format!(
                "The option '{option}' of modifyvm is not available in this version of Oxbox yet"
            )));
        }
        match args.next(&table)? {
            None => return Ok((machine, changes)),
            Some(Arg::Opt(setting, given)) => changes.push((setting.read)(given, args)?),
            Some(Arg::Word(word)) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
}

fn is_not_yet(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    let bare = name
        .trim_start_matches('-')
        .trim_end_matches(|c: char| c.is_ascii_digit());
    option.starts_with('-') && NOT_YET.iter().any(|n| n.trim_start_matches('-') == bare)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (machine, changes) = parse(args)?;
    let locked = cx.lock(&machine, LockType::Write)?;
    for change in changes {
        change(&locked.machine)?;
    }
    locked.save()
}

/// The change that one call makes.
fn call(given: &Given, f: impl FnOnce(&Machine) -> api::Result<()> + 'static) -> Result<Change> {
    let what = format!("modifyvm {} {}", given.typed, given.value);
    Ok(Box::new(move |m| f(m).during(what.trim_end())))
}

/// A switch.
fn switch(given: &Given, f: fn(&Machine, bool) -> api::Result<()>) -> Result<Change> {
    let on = given.on()?;
    call(given, move |m| f(m, on))
}

/// A number that the service checks.
fn number(given: &Given, f: fn(&Machine, u32) -> api::Result<()>) -> Result<Change> {
    let number = given.integer()?;
    call(given, move |m| f(m, number))
}

/// A text, empty for the word `empty`.
fn text(given: &Given, empty: &str, f: fn(&Machine, &str) -> api::Result<()>) -> Result<Change> {
    let value = if !empty.is_empty() && given.value == empty {
        String::new()
    } else {
        given.value.clone()
    };
    call(given, move |m| f(m, &value))
}

/// One of a list of words.
fn word<T: Copy + 'static>(
    given: &Given,
    words: &[(&str, T)],
    f: fn(&Machine, T) -> api::Result<()>,
) -> Result<Change> {
    let value = given.one_of(words)?;
    call(given, move |m| f(m, value))
}

/// `/a,/b`.
pub fn groups(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|g| !g.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A switch with a third word that means the same as off.
fn on_or(word: &str, off: &str) -> Option<bool> {
    if word.eq_ignore_ascii_case(off) {
        return Some(false);
    }
    on_off(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<usize> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned()))).map(|(_, c)| c.len())
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = settings()
            .flat_map(|s| s.opt.names.iter().map(|n| (*n, s.opt.numbered)))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in NOT_YET {
            assert!(!names.iter().any(|(n, _)| n == name), "{name}");
        }
    }

    /// Every option of 4.0 that the specification lists is known in one way or the other.
    #[test]
    fn options_of_4_0_are_known() {
        const OLD: &str = "--name --ostype --memory --pagefusion --vram --acpi --ioapic --pae --hpet \
            --hwvirtex --hwvirtexexcl --nestedpaging --largepages --vtxvpid --synthcpu --cpuidset \
            --cpuidremove --cpuidremoveall --hardwareuuid --cpus --cpuhotplug --plugcpu --unplugcpu \
            --cpuexecutioncap --rtcuseutc --monitorcount --accelerate3d --accelerate2dvideo \
            --firmware --chipset --bioslogofadein --bioslogofadeout --bioslogodisplaytime \
            --bioslogoimagepath --biosbootmenu --biossystemtimeoffset --biospxedebug --boot1 --boot4 \
            --nic1 --nictype1 --cableconnected1 --nictrace1 --nictracefile1 --nicspeed1 \
            --nicbootprio1 --bridgeadapter1 --hostonlyadapter1 --intnet1 --natnet1 --natsettings1 \
            --natpf1 --nattftpprefix1 --nattftpfile1 --nattftpserver1 --natbindip1 \
            --natdnspassdomain1 --natdnsproxy1 --natdnshostresolver1 --nataliasmode1 --macaddress1 \
            --mouse --keyboard --uart1 --uartmode1 --gueststatisticsinterval --guestmemoryballoon \
            --audio --audiocontroller --clipboard --vrde --vrdeextpack --vrdeport --vrdeaddress \
            --vrdeauthtype --vrdemulticon --vrdereusecon --vrdevideochannel \
            --vrdevideochannelquality --usb --usbehci --snapshotfolder --teleporter \
            --teleporterport --teleporteraddress --teleporterpassword \
            --nicpromisc1 --nicgenericdrv1 --nicproperty1 --pciattach --pcidetach --usbcardreader \
            --groups --draganddrop --tracing-enabled --autostart-enabled --autostart-delay \
            --nicbandwidthgroup1 --vrdeproperty --lpt1 --lptmode1 --description --iconfile \
            --triplefaultreset --longmode --videocap --defaultfrontend --vtxux --nat-network1 \
            --graphicscontroller --paravirtprovider --paravirtdebug --cpuid-portability-level \
            --usbxhci --usbrename --apic --x2apic --biosapic --cpu-profile --audiocodec --audioin \
            --audioout --ibpb-on-vm-exit --ibpb-on-vm-entry --spec-ctrl --l1d-flush-on-sched \
            --l1d-flush-on-vm-entry --nested-hw-virt --recording --clipboard-mode \
            --vm-process-priority --uart-type1 --mds-clear-on-sched --mds-clear-on-vm-entry \
            --virt-vmsave-vmload --system-uuid-le --iommu --tpm-type --tpm-location --audio-driver \
            --audio-enabled --host-only-net1 --nat-localhostreachable1 --guest-debug-provider \
            --guest-debug-io-provider --guest-debug-address --guest-debug-port --x86-pae \
            --x86-vtx-vpid";
        let table: Vec<&Setting> = settings().collect();
        for option in OLD.split_whitespace() {
            if is_not_yet(option) {
                continue;
            }
            let mut args = Args::new([option.to_owned(), "x".to_owned()]);
            let found = args.next(&table);
            assert!(
                matches!(found, Ok(Some(Arg::Opt(..)))),
                "{option}: {found:?}",
                found = found.err()
            );
        }
    }

    #[test]
    fn lines_of_tools() {
        let docker = [
            "vm",
            "--firmware",
            "bios",
            "--bioslogofadein",
            "off",
            "--bioslogofadeout",
            "off",
            "--bioslogodisplaytime",
            "0",
            "--biosbootmenu",
            "disabled",
            "--ostype",
            "Linux26_64",
            "--cpus",
            "1",
            "--memory",
            "1024",
            "--acpi",
            "on",
            "--ioapic",
            "on",
            "--rtcuseutc",
            "on",
            "--natdnshostresolver1",
            "off",
            "--natdnsproxy1",
            "on",
            "--cpuhotplug",
            "off",
            "--pae",
            "on",
            "--hpet",
            "on",
            "--hwvirtex",
            "on",
            "--nestedpaging",
            "on",
            "--largepages",
            "on",
            "--vtxvpid",
            "on",
            "--accelerate3d",
            "off",
            "--boot1",
            "dvd",
            "--longmode",
            "on",
        ];
        assert_eq!(parsed(&docker).expect("known"), 23);
        let vagrant = [
            "u",
            "--natpf1",
            "ssh,tcp,127.0.0.1,2222,,22",
            "--natpf1",
            "delete",
            "ssh",
            "--uart1",
            "0x3F8",
            "4",
            "--uartmode1",
            "server",
            "/run/serial",
            "--uart2",
            "off",
            "--macaddress1",
            "080027B9DDCA",
        ];
        assert_eq!(parsed(&vagrant).expect("known"), 6);
    }

    #[test]
    fn what_is_wrong_is_told_before_anything_changes() {
        for wrong in [
            &["vm", "--memory"][..],
            &["vm", "--memory", "1G"],
            &["vm", "--hpet", "x"],
            &["vm", "--boot5", "disk"],
            &["vm", "--boot1", "tape"],
            &["vm", "--natpf1", "x"],
            &["vm", "--natpf1", "a,tcp,,70000,,22"],
            &["vm", "--natpf1", "delete"],
            &["vm", "--uart1", "0x3F8"],
            &["vm", "--uart5", "off"],
            &["vm", "--uartmode1", "server"],
            &["vm", "--cpuid-set", "1", "2"],
            &["vm", "x"],
            &[],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
        let missing = parsed(&["vm", "--pciattach", "02:00.0"]);
        assert!(matches!(missing, Err(Failure::Message(_))));
    }
}
