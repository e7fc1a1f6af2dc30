//! Guest operating systems: CIM's numbers (`CIM_OperatingSystem.OSType`) and VirtualBox's IDs.

/// Number and ID, the ID that stands for the number first.
const TABLE: &[(u32, &str)] = &[
    (0, "Other"),
    (1, "Other"),
    (2, "MacOS"),
    (14, "DOS"),
    (15, "Windows31"),
    (16, "Windows95"),
    (17, "Windows98"),
    (18, "WindowsNT4"),
    (29, "Solaris"),
    (36, "Linux"),
    (42, "FreeBSD"),
    (43, "NetBSD"),
    (58, "Windows2000"),
    (63, "WindowsMe"),
    (65, "OpenBSD"),
    (67, "WindowsXP"),
    (69, "Windows2003"),
    (70, "Windows2003_64"),
    (71, "WindowsXP_64"),
    (72, "WindowsXP"),
    (73, "WindowsVista"),
    (74, "WindowsVista_64"),
    (76, "Windows2008"),
    (77, "Windows2008_64"),
    (78, "FreeBSD_64"),
    (79, "RedHat"),
    (80, "RedHat_64"),
    (81, "Solaris_64"),
    (81, "OpenSolaris_64"),
    (82, "OpenSUSE"),
    (83, "OpenSUSE_64"),
    (84, "SUSE_LE"),
    (85, "SUSE_LE_64"),
    (86, "Linux"),
    (87, "Linux"),
    (88, "Linux"),
    (89, "Mandriva"),
    (90, "Mandriva_64"),
    (91, "Turbolinux"),
    (92, "Turbolinux_64"),
    (93, "Ubuntu"),
    (94, "Ubuntu_64"),
    (95, "Debian"),
    (96, "Debian_64"),
    (97, "Linux24"),
    (98, "Linux24_64"),
    (99, "Linux26"),
    (100, "Linux26_64"),
    (101, "Linux_64"),
    (102, "Other_64"),
    (103, "Windows2008_64"),
    (105, "Windows7"),
    (106, "RedHat"),
    (107, "RedHat_64"),
    (108, "Oracle"),
    (109, "Oracle_64"),
    (110, "OS2eCS"),
    (111, "Windows2008_64"),
    (113, "Windows2012_64"),
    (114, "Windows8"),
    (115, "Windows8_64"),
    (116, "Windows2012_64"),
    (117, "Windows2016_64"),
    (118, "Windows81"),
    (119, "Windows81_64"),
    (120, "Windows10"),
    (121, "Windows10_64"),
];

/// VirtualBox's ID for a number; `Other` for one that it does not know.
pub fn guest_os(cim: u32) -> &'static str {
    let found = TABLE.iter().find(|(number, _)| *number == cim);
    found.map_or("Other", |(_, id)| id)
}

/// CIM's number for an ID of VirtualBox; 1, which means another one, where CIM has none.
pub fn cim_id(os: &str) -> u32 {
    let of = |id: &str| {
        // A number has one first ID; of numbers that share it, 0 says less than 1.
        let found = TABLE
            .iter()
            .find(|(n, known)| *n != 0 && known.eq_ignore_ascii_case(id));
        found.map(|(number, _)| *number)
    };
    // Releases have IDs of their own since 7.0: Debian11_64, Ubuntu22_LTS_64.
    let (base, bits) = match os.strip_suffix("_64") {
        Some(base) => (base, "_64"),
        None => (os, ""),
    };
    let family = base
        .find(|c: char| c.is_ascii_digit())
        .and_then(|n| base.get(..n));
    let family = family.filter(|f| !f.is_empty() && !f.starts_with("Windows"));
    of(os)
        .or_else(|| family.and_then(|f| of(&format!("{f}{bits}"))))
        .unwrap_or(match bits {
            "_64" => 102,
            _ => 1,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ids() {
        for id in ["Ubuntu_64", "Debian", "Windows10_64", "Linux26_64", "DOS"] {
            assert_eq!(guest_os(cim_id(id)), id);
        }
        assert_eq!(guest_os(93), "Ubuntu");
        assert_eq!(guest_os(4711), "Other");
        assert_eq!(cim_id("Debian11_64"), 96);
        assert_eq!(cim_id("Ubuntu22_LTS_64"), 94);
        assert_eq!(cim_id("Windows11_64"), 102);
        assert_eq!(cim_id("QNX"), 1);
    }
}
