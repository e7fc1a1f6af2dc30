//! The few AML constructs the DSDT is made of. Each function gives the bytes of one object.
//!
//! Source: ACPI 6.4, chapter 20 (AML) and 6.4 (resource descriptors).

/// Joins objects.
pub fn list<const N: usize>(parts: [Vec<u8>; N]) -> Vec<u8> {
    parts.concat()
}

/// PkgLength of a body, in front of it.
fn sized(body: &[u8]) -> Vec<u8> {
    // The length counts its own bytes: one up to 63, two up to 4095, and so on.
    let mut out = Vec::new();
    let len = body.len();
    if len + 1 < 0x40 {
        out.push((len + 1) as u8);
    } else {
        let extra = if len + 2 < 0x1000 {
            1
        } else if len + 3 < 0x10_0000 {
            2
        } else {
            3
        };
        let total = len + 1 + extra;
        out.push((extra as u8) << 6 | (total & 15) as u8);
        out.extend((0..extra).map(|i| (total >> (4 + 8 * i)) as u8));
    }
    out.extend_from_slice(body);
    out
}

/// A name: up to four characters a segment, separated by dots, `\` for the root.
pub fn path(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let rest = match text.strip_prefix('\\') {
        Some(rest) => {
            out.push(b'\\');
            rest
        }
        None => text,
    };
    let segments: Vec<&str> = rest.split('.').collect();
    match segments.len() {
        1 => {}
        2 => out.push(0x2e),
        n => out.extend([0x2f, n as u8]),
    }
    for segment in segments {
        let mut name = [b'_'; 4];
        name.iter_mut()
            .zip(segment.bytes())
            .for_each(|(n, b)| *n = b);
        out.extend(name);
    }
    out
}

/// An integer constant.
pub fn int(value: u64) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    match value {
        0 => vec![0],
        1 => vec![1],
        2..=0xff => vec![0x0a, bytes[0]],
        0x100..=0xffff => [&[0x0b], &bytes[..2]].concat(),
        0x1_0000..=0xffff_ffff => [&[0x0c], &bytes[..4]].concat(),
        _ => [&[0x0e], &bytes[..]].concat(),
    }
}

/// A plug-and-play id such as `PNP0A03`, compressed.
pub fn eisa_id(id: &str) -> Vec<u8> {
    let letter = |i: usize| u32::from(id.as_bytes().get(i).map_or(0, |b| b & 0x1f));
    let number = u32::from_str_radix(id.get(3..).unwrap_or(""), 16).unwrap_or(0);
    let value = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | number;
    let mut out = vec![0x0c];
    out.extend(value.to_be_bytes());
    out
}

fn opcode(op: &[u8], body: Vec<u8>) -> Vec<u8> {
    [op, &sized(&body)].concat()
}

/// `Name (name, value)`.
pub fn name(at: &str, value: Vec<u8>) -> Vec<u8> {
    list([vec![0x08], path(at), value])
}

/// `Scope (at) { body }`.
pub fn scope(at: &str, body: Vec<u8>) -> Vec<u8> {
    opcode(&[0x10], list([path(at), body]))
}

/// `Device (at) { body }`.
pub fn device(at: &str, body: Vec<u8>) -> Vec<u8> {
    opcode(&[0x5b, 0x82], list([path(at), body]))
}

/// `Processor (at, id, 0, 0) {}`.
pub fn processor(at: &str, id: u8) -> Vec<u8> {
    opcode(&[0x5b, 0x83], list([path(at), vec![id, 0, 0, 0, 0, 0]]))
}

/// `Method (at, arguments, NotSerialized) { body }`.
pub fn method(at: &str, arguments: u8, body: Vec<u8>) -> Vec<u8> {
    opcode(&[0x14], list([path(at), vec![arguments], body]))
}

/// `Method (at, arguments, Serialized) { body }`, for methods that make names.
pub fn serialized(at: &str, arguments: u8, body: Vec<u8>) -> Vec<u8> {
    opcode(&[0x14], list([path(at), vec![arguments | 8], body]))
}

/// `Package () { elements }`, at most 255 of them.
pub fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let count = elements.len().min(255);
    opcode(
        &[0x12],
        [vec![count as u8], elements[..count].concat()].concat(),
    )
}

/// `Buffer () { bytes }`.
pub fn buffer(bytes: &[u8]) -> Vec<u8> {
    opcode(&[0x11], list([int(bytes.len() as u64), bytes.to_vec()]))
}

/// `Return (value)`.
pub fn give(value: Vec<u8>) -> Vec<u8> {
    list([vec![0xa4], value])
}

/// `If (condition) { body }`.
pub fn when(condition: Vec<u8>, body: Vec<u8>) -> Vec<u8> {
    opcode(&[0xa0], list([condition, body]))
}

/// `And (a, b, target)`; an empty target is none.
pub fn and(a: Vec<u8>, b: Vec<u8>, target: Option<&str>) -> Vec<u8> {
    list([vec![0x7b], a, b, target.map_or(vec![0], path)])
}

/// `Or (a, b, target)`.
pub fn or(a: Vec<u8>, b: Vec<u8>, target: &str) -> Vec<u8> {
    list([vec![0x7d], a, b, path(target)])
}

/// `Store (value, target)`.
pub fn store(value: Vec<u8>, target: &str) -> Vec<u8> {
    list([vec![0x70], value, path(target)])
}

/// `Arg0`.
pub fn arg0() -> Vec<u8> {
    vec![0x68]
}

/// `CreateDWordField (source, byte, name)`.
pub fn dword_field(source: Vec<u8>, byte: u64, at: &str) -> Vec<u8> {
    list([vec![0x8a], source, int(byte), path(at)])
}

/// `OperationRegion (at, PCI_Config, offset, len)`.
pub fn pci_region(at: &str, offset: u64, len: u64) -> Vec<u8> {
    list([vec![0x5b, 0x80], path(at), vec![2], int(offset), int(len)])
}

/// `Field (region, ByteAcc, NoLock, Preserve)` of byte-wide fields.
pub fn byte_fields(region: &str, names: &[&str]) -> Vec<u8> {
    let mut body = list([path(region), vec![0x01]]);
    for at in names {
        body.extend(path(at));
        body.push(8);
    }
    opcode(&[0x5b, 0x81], body)
}

/// `ResourceTemplate () { descriptors }`.
pub fn resources(descriptors: &[Vec<u8>]) -> Vec<u8> {
    buffer(&[descriptors.concat(), vec![0x79, 0]].concat())
}

/// `IO (Decode16, base, base, 1, len)`.
pub fn io(base: u16, len: u8) -> Vec<u8> {
    let [low, high] = base.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, len]
}

/// `IRQNoFlags () { irq }`.
pub fn irq(number: u8) -> Vec<u8> {
    let [low, high] = (1u16 << (number & 15)).to_le_bytes();
    vec![0x22, low, high]
}

/// `DMA (Compatibility, NotBusMaster, Transfer8) { channel }`.
pub fn dma(channel: u8) -> Vec<u8> {
    vec![0x2a, 1 << (channel & 7), 0]
}

/// `Memory32Fixed (ReadWrite, base, len)`.
pub fn memory32(base: u32, len: u32) -> Vec<u8> {
    let mut out = vec![0x86, 9, 0, 1];
    out.extend(base.to_le_bytes());
    out.extend(len.to_le_bytes());
    out
}

/// `Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { numbers }`.
pub fn interrupts(numbers: &[u32]) -> Vec<u8> {
    let len = (2 + 4 * numbers.len()) as u16;
    let mut out = vec![0x89];
    out.extend(len.to_le_bytes());
    out.extend([0x09, numbers.len() as u8]);
    numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out
}

/// `WordBusNumber` or `WordIO`: `kind` 2 or 1, with its type flags.
fn word_space(kind: u8, flags: u8, first: u16, last: u16) -> Vec<u8> {
    let mut out = vec![0x88, 13, 0, kind, 0x0c, flags];
    let len = last.wrapping_sub(first).wrapping_add(1);
    for word in [0, first, last, 0, len] {
        out.extend(word.to_le_bytes());
    }
    out
}

/// `WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode)`.
pub fn bus_numbers(first: u16, last: u16) -> Vec<u8> {
    word_space(2, 0, first, last)
}

/// `WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange)`.
pub fn io_window(first: u16, last: u16) -> Vec<u8> {
    word_space(1, 3, first, last)
}

/// `DWordMemory (ResourceProducer, ..., ReadWrite)`; `cacheable` for video memory windows.
pub fn memory_window(first: u32, last: u32, cacheable: bool) -> Vec<u8> {
    let mut out = vec![0x87, 23, 0, 0, 0x0c, if cacheable { 3 } else { 1 }];
    for word in [0, first, last, 0, last - first + 1] {
        out.extend(word.to_le_bytes());
    }
    out
}
