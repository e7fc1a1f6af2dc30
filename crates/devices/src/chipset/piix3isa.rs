//! Intel 82371SB (PIIX3) PCI-to-ISA bridge: PCI function 00:01.0, the PCI interrupt router, and
//! port 0x92.
//!
//! Source: 82371SB datasheet (290550), 2.2.8 (PIRQRC) and 2.5.1.1 (port 92 is a board register on
//! PIIX3 systems). Bus timing, chip select and motherboard device registers keep what is written.

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::irq::IrqSink;
use pdm::pci::{CONFIG_SIZE, Function, Handle, PciDevice};
use pdm::{Device, DeviceReg, Host, IrqLine, Pio, Result, VmControl, VmRequest, ssm};
use pgm::PhysMap;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "piix3isa",
    description: "Intel PIIX3 ISA bridge",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
/// PIRQRC[A:D]: bit 7 disables the route, bits 3:0 are the ISA interrupt.
const PIRQRC: usize = 0x60;
/// ISA interrupts a PIRQ may go to (3 to 7, 9 to 12, 14, 15).
const ROUTABLE: u16 = 0b1101_1110_1111_1000;
const FAST_A20: u16 = 0x92;

/// Steers PCI interrupt lines to ISA lines.
struct Router {
    /// One source per PIRQ on each ISA line.
    lines: [Vec<IrqLine>; 4],
    state: Mutex<[Route; 4]>,
}

#[derive(Clone, Copy, Default)]
struct Route {
    level: bool,
    irq: Option<u8>,
}

impl Router {
    fn set_route(&self, pirq: usize, register: u8) {
        let irq = register & 15;
        let routed = register & 0x80 == 0 && ROUTABLE >> irq & 1 != 0;
        let mut state = self.state.lock();
        let route = &mut state[pirq];
        let irq = routed.then_some(irq);
        if irq != route.irq {
            if let Some(old) = route.irq {
                self.lines[pirq][usize::from(old)].set(false);
            }
            route.irq = irq;
            if let Some(new) = irq {
                self.lines[pirq][usize::from(new)].set(route.level);
            }
        }
    }
}

impl IrqSink for Router {
    fn pirq(&self, pirq: u8, level: bool) {
        let pirq = usize::from(pirq & 3);
        let mut state = self.state.lock();
        state[pirq].level = level;
        if let Some(irq) = state[pirq].irq {
            self.lines[pirq][usize::from(irq)].set(level);
        }
    }
}

struct Piix3Isa {
    pci: Handle,
    router: Arc<Router>,
    phys: Arc<PhysMap>,
    vm: Arc<dyn VmControl>,
    /// Port 0x92 without the gate, which lives in the memory map.
    port92: u8,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    config: Vec<u8>,
    #[n(1)]
    port92: u8,
    #[n(2)]
    a20: bool,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let mut function = Function::new(1, 0, 0x8086, 0x7000, 0x06_0100, 0);
    let config = &mut function.config;
    config[4] = 0x07;
    config[7] = 0x02;
    config[0x0e] = 0x80;
    config[0x4c] = 0x4d;
    config[0x4e] = 0x03;
    config[PIRQRC..PIRQRC + 4].fill(0x80);
    config[0x69] = 0x02;
    config[0x70] = 0x80;
    config[0x76] = 0x0c;
    config[0x77] = 0x0c;
    config[0x78] = 0x02;
    config[0xa0] = 0x08;
    config[0xa8] = 0x0f;
    // IORT, XBCS, PIRQRC, TOM, MSTAT, MBIRQ, MBDMA, PCSC, APICBASE, DLC, SMI registers.
    for range in [
        0x4c..0x50,
        PIRQRC..PIRQRC + 4,
        0x69..0x6c,
        0x70..0x73,
        0x76..0x83,
        0xa0..0xb0,
    ] {
        function.writable[range].fill(0xff);
    }
    let pci = host.pci_function(function)?;
    host.map_pio(FAST_A20, 1)?;
    let mut lines = || (0..16).map(|irq| host.isa_irq(irq)).collect::<Vec<_>>();
    let lines = [lines(), lines(), lines(), lines()];
    let state = Mutex::default();
    let router = Arc::new(Router { lines, state });
    host.add_irq_sink(router.clone());
    Ok(Box::new(Piix3Isa {
        pci,
        router,
        phys: host.phys(),
        vm: host.vm(),
        port92: 0,
    }))
}

impl Piix3Isa {
    fn route(&self, config: &[u8; CONFIG_SIZE]) {
        for pirq in 0..4 {
            self.router.set_route(pirq, config[PIRQRC + pirq]);
        }
    }
}

impl Pio for Piix3Isa {
    fn read(&mut self, _: u16, _: u8) -> u32 {
        (self.port92 | u8::from(self.phys.a20()) << 1).into()
    }

    fn write(&mut self, _: u16, _: u8, value: u32) {
        let value = value as u8;
        let old = self.port92;
        self.port92 = value & !2;
        self.phys.set_a20(value & 2 != 0);
        if value & !old & 1 != 0 {
            self.vm.request(VmRequest::Reset);
        }
    }
}

impl PciDevice for Piix3Isa {
    fn bar_moved(&mut self, _: usize, _: Option<u64>) {}

    fn config_written(&mut self, _: usize, _: usize, config: &mut [u8; CONFIG_SIZE]) {
        // The bridge cannot be taken off the bus.
        config[4] |= 0x07;
        self.route(config);
    }
}

impl Device for Piix3Isa {
    fn reset(&mut self) {
        self.pci.reset();
        self.route(&self.pci.with_config(|c| *c));
        self.port92 = 0;
        self.phys.set_a20(true);
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            config: self.pci.save(),
            port92: self.port92,
            a20: self.phys.a20(),
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        self.pci.load(&saved.config)?;
        self.route(&self.pci.with_config(|c| *c));
        self.port92 = saved.port92;
        self.phys.set_a20(saved.a20);
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        for (name, route) in ["A", "B", "C", "D"]
            .iter()
            .zip(self.router.state.lock().iter())
        {
            match route.irq {
                Some(irq) => write!(out, "PIRQ{name} -> IRQ{irq}")?,
                None => write!(out, "PIRQ{name} not routed")?,
            }
            writeln!(out, ", {}", if route.level { "high" } else { "low" })?;
        }
        writeln!(
            out,
            "A20 {}",
            if self.phys.a20() { "open" } else { "masked" }
        )
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn pci(&mut self) -> Option<&mut dyn PciDevice> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::irq::Wire;
    use pdm::testing::TestHost;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u8, bool)>>);
    impl IrqSink for Log {
        fn isa(&self, irq: u8, level: bool) {
            self.0.lock().push((irq, level));
        }
    }

    #[test]
    fn a_high_pirq_follows_its_route() {
        let mut host = TestHost::default();
        let log = Arc::new(Log::default());
        host.hub.add_sink(log.clone());
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        let pirq = host.hub.line(Wire::Pirq(1));
        pirq.set(true);
        assert!(log.0.lock().is_empty());
        let mut config = [0x80; CONFIG_SIZE];
        config[PIRQRC + 1] = 10;
        dev.pci().unwrap().config_written(PIRQRC, 4, &mut config);
        config[PIRQRC + 1] = 11;
        dev.pci().unwrap().config_written(PIRQRC, 4, &mut config);
        pirq.set(false);
        config[PIRQRC + 1] = 8; // reserved
        dev.pci().unwrap().config_written(PIRQRC, 4, &mut config);
        pirq.set(true);
        assert_eq!(
            *log.0.lock(),
            [(10, true), (10, false), (11, true), (11, false)]
        );
    }

    #[test]
    fn port_92_masks_a20_and_resets_on_an_edge() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        dev.reset();
        let io = dev.pio().unwrap();
        assert_eq!(io.read(0x92, 1), 2);
        io.write(0x92, 1, 0);
        assert!(!host.phys.a20());
        io.write(0x92, 1, 3);
        io.write(0x92, 1, 3);
        assert!(host.phys.a20());
        assert_eq!(*host.recorder.requests.lock(), [VmRequest::Reset]);
    }
}
