//! Rust names for the IDL's names.

/// `VRAMSize` -> `vram_size`, `is64Bit` -> `is64_bit`, `IPv6Enabled` -> `ipv6_enabled`.
pub fn snake(name: &str) -> String {
    let name = name.replace("IPv", "Ipv").replace("UUIDs", "Uuids");
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        if c.is_uppercase() && i > 0 {
            let prev = chars[i - 1];
            let next_lower = chars.get(i + 1).is_some_and(|n| n.is_lowercase());
            if prev.is_lowercase() || next_lower {
                out.push('_');
            }
        }
        out.extend(c.to_lowercase());
    }
    match out.as_str() {
        "type" | "ref" | "move" | "match" | "self" | "where" | "in" | "impl" => out + "_",
        _ => out,
    }
}

/// `IMachine` -> `IMACHINE`, the name of its table.
pub fn table(interface: &str) -> String {
    let snake = snake(interface.strip_prefix('I').unwrap_or(interface));
    format!("I_{}", snake.to_uppercase())
}

/// `IMachine` -> `Machine`, the client type.
pub fn client(interface: &str) -> &str {
    interface.strip_prefix('I').unwrap_or(interface)
}

#[cfg(test)]
mod tests {
    use super::snake;

    #[test]
    fn snake_case() {
        for (from, to) in [
            ("VRAMSize", "vram_size"),
            ("OSTypeId", "os_type_id"),
            ("launchVMProcess", "launch_vm_process"),
            ("is64Bit", "is64_bit"),
            ("IPv6Enabled", "ipv6_enabled"),
            ("accelerate3DEnabled", "accelerate3d_enabled"),
            ("type", "type_"),
        ] {
            assert_eq!(snake(from), to);
        }
    }
}
