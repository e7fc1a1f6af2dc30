//! Networks and USB filters, which `VirtualBox.xml` and machines' settings keep.

use super::common::Home;

fn global(home: &Home) -> String {
    std::fs::read_to_string(home.path("home/VirtualBox.xml")).expect("settings")
}

#[test]
fn nat_networks_are_kept() {
    let home = Home::new();
    home.ok(&[
        "natnetwork",
        "add",
        "--netname",
        "natnet1",
        "--network",
        "192.168.15.0/24",
        "--enable",
        "--dhcp",
        "on",
        "--port-forward-4",
        "ssh:tcp:[]:1022:[192.168.15.5]:22",
        "--loopback-4",
        "127.0.0.1=2",
    ]);
    let block = "Name:         natnet1\nNetwork:      192.168.15.0/24\nGateway:      192.168.15.1\n\
        DHCP Server:  Yes\nIPv6:         No\nIPv6 Prefix:  fd17:625c:f037:a80f::/64\n\
        IPv6 Default: No\nEnabled:      Yes\nPort-forwarding (ipv4)\n\
        \x20       ssh:tcp:[]:1022:[192.168.15.5]:22\nloopback mappings (ipv4)\n\
        \x20       127.0.0.1=2\n\n";
    assert_eq!(home.ok(&["list", "natnets"]), block);
    let listed = home.ok(&["natnetwork", "list", "nat*"]);
    assert_eq!(listed, format!("NAT Networks:\n\n{block}1 network found\n"));
    assert!(
        home.ok(&["natnetwork", "list", "x*"])
            .ends_with("0 networks found\n")
    );
    let again = [
        "natnetwork",
        "add",
        "--netname",
        "natnet1",
        "--network",
        "10.0.0.0/24",
    ];
    assert!(
        home.fails(&again)
            .contains("error: NATNetwork server already exists\n")
    );
    // A wrong value leaves no half of a network behind.
    let err = home.fails(&[
        "natnetwork",
        "add",
        "--netname",
        "n2",
        "--network",
        "10.0.0.0/31",
    ]);
    assert!(err.contains("E_INVALIDARG"), "{err}");
    home.ok(&[
        "natnetwork",
        "modify",
        "--netname",
        "natnet1",
        "--dhcp",
        "off",
        "--disable",
        "--port-forward-4",
        "delete",
        "ssh",
    ]);
    home.wait_for_service_end();
    let xml = global(&home);
    assert!(xml.contains("<NATNetwork networkName=\"natnet1\""), "{xml}");
    assert!(!xml.contains("n2") && !xml.contains("1022"), "{xml}");
    let now = home.ok(&["list", "natnetworks"]);
    assert!(
        now.contains("DHCP Server:  No\n") && now.contains("Enabled:      No\n"),
        "{now}"
    );
    let err = home.fails(&["natnetwork", "start", "--netname", "natnet1"]);
    assert!(
        err.contains("INATNetwork::start is not implemented"),
        "{err}"
    );
    home.ok(&["natnetwork", "remove", "--netname", "natnet1"]);
    assert_eq!(home.ok(&["list", "natnets"]), "");
    let err = home.fails(&["natnetwork", "remove", "--netname", "natnet1"]);
    assert!(
        err.contains("error: NATNetwork server does not exist\n"),
        "{err}"
    );
}

/// As docker-machine and Vagrant make, read and remove them.
#[test]
fn dhcp_servers_are_kept() {
    let home = Home::new();
    home.ok(&[
        "dhcpserver",
        "add",
        "--ifname",
        "vboxnet0",
        "--ip",
        "192.168.56.100",
        "--netmask",
        "255.255.255.0",
        "--lowerip",
        "192.168.56.101",
        "--upperip",
        "192.168.56.254",
        "--enable",
    ]);
    let listed = home.ok(&["list", "dhcpservers"]);
    for line in [
        "NetworkName:    HostInterfaceNetworking-vboxnet0\n",
        "Dhcpd IP:       192.168.56.100\n",
        "LowerIPAddress: 192.168.56.101\n",
        "UpperIPAddress: 192.168.56.254\n",
        "NetworkMask:    255.255.255.0\n",
        "Enabled:        Yes\n",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    let network = "HostInterfaceNetworking-vboxnet0";
    let err = home.fails(&[
        "dhcpserver",
        "add",
        "--netname",
        network,
        "--ip",
        "1.2.3.1",
        "--netmask",
        "255.0.0.0",
        "--lowerip",
        "1.2.3.2",
        "--upperip",
        "1.2.3.3",
    ]);
    assert!(
        err.contains("VBoxManage: error: DHCP server already exists"),
        "{err}"
    );
    let short = home.run(&["dhcpserver", "add", "--netname", "n", "--ip", "1.2.3.1"]);
    assert_eq!(short.code, 2);
    let missing = "Missing required option(s): --netmask, --lower-ip, --upper-ip";
    assert!(short.err.contains(missing), "{}", short.err);
    home.ok(&[
        "dhcpserver",
        "modify",
        "--network",
        network,
        "--upper-ip",
        "192.168.56.200",
        "--disable",
    ]);
    let err = home.fails(&[
        "dhcpserver",
        "modify",
        "--network",
        network,
        "--server-ip",
        "10.0.0.1",
    ]);
    assert!(err.contains("are not of one network"), "{err}");
    home.wait_for_service_end();
    let xml = global(&home);
    assert!(
        xml.contains("upperIP=\"192.168.56.200\"") && xml.contains("enabled=\"0\""),
        "{xml}"
    );
    assert!(
        home.fails(&["dhcpserver", "start", "--ifname", "vboxnet0"])
            .contains("E_NOTIMPL")
    );
    home.ok(&["dhcpserver", "remove", "--netname", network]);
    assert_eq!(home.ok(&["list", "dhcpservers"]), "");
    let err = home.fails(&["dhcpserver", "remove", "--netname", network]);
    assert!(err.contains("DHCP server does not exist"), "{err}");
}

#[test]
fn host_only_networks_are_kept() {
    let home = Home::new();
    let id = "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab";
    home.ok(&[
        "hostonlynet",
        "add",
        "--name",
        "vagrantnet-vbox1",
        "--id",
        id,
        "--netmask",
        "255.255.255.0",
        "--lower-ip",
        "192.168.56.0",
        "--upper-ip",
        "192.168.56.0",
        "--enable",
    ]);
    assert_eq!(
        home.ok(&["list", "hostonlynets"]),
        format!(
            "Name:            vagrantnet-vbox1\nGUID:            {id}\n\nState:           Enabled\n\
             NetworkMask:     255.255.255.0\nLowerIP:         192.168.56.0\n\
             UpperIP:         192.168.56.0\nVBoxNetworkName: hostonly-vagrantnet-vbox1\n\n"
        )
    );
    home.ok(&[
        "hostonlynet",
        "modify",
        "--id",
        id,
        "--upper-ip",
        "192.168.56.99",
        "--disable",
    ]);
    let err = home.fails(&[
        "hostonlynet",
        "modify",
        "--id",
        id,
        "--netmask",
        "255.0.255.0",
    ]);
    assert!(err.contains("E_INVALIDARG"), "{err}");
    home.wait_for_service_end();
    let listed = home.ok(&["list", "hostonlynets"]);
    assert!(listed.contains("UpperIP:         192.168.56.99\n") && listed.contains("Disabled"));
    home.ok(&["hostonlynet", "remove", "--name", "vagrantnet-vbox1"]);
    assert_eq!(home.ok(&["list", "hostonlynets"]), "");
    // Interfaces have no room yet.
    assert!(
        home.fails(&["hostonlyif", "create"])
            .contains("not available in this version")
    );
    let err = home.fails(&["hostonlyif", "remove", "vboxnet0"]);
    assert!(err.contains("VBOX_E_OBJECT_NOT_FOUND"), "{err}");
}

#[test]
fn usb_filters_of_machines_and_of_all() {
    let home = Home::new();
    home.ok(&["createvm", "--name", "deb", "--register"]);
    home.ok(&[
        "usbfilter",
        "add",
        "0",
        "--target",
        "deb",
        "--name",
        "stick",
        "--vendorid",
        "0951",
        "--productid",
        "1666",
        "--manufacturer",
        "Kingston",
        "--remote",
        "no",
    ]);
    home.ok(&[
        "usbfilter",
        "add",
        "0",
        "--target",
        "deb",
        "--name",
        "first",
        "--active",
        "no",
    ]);
    assert_eq!(home.value("deb", "USBFilterName1"), "first");
    assert_eq!(home.value("deb", "USBFilterActive1"), "off");
    assert_eq!(home.value("deb", "USBFilterName2"), "stick");
    assert_eq!(home.value("deb", "USBFilterVendorId2"), "0951");
    home.ok(&[
        "usbfilter",
        "modify",
        "1",
        "--target",
        "deb",
        "--vendorid",
        "",
        "--name",
        "any",
    ]);
    assert_eq!(home.value("deb", "USBFilterVendorId2"), "");
    let err = home.fails(&[
        "usbfilter",
        "modify",
        "1",
        "--target",
        "deb",
        "--vendorid",
        "x",
    ]);
    assert!(err.contains("E_INVALIDARG"), "{err}");
    home.fails(&["usbfilter", "modify", "7", "--target", "deb", "--name", "x"]);
    home.ok(&["usbfilter", "remove", "0", "--target", "deb"]);
    home.wait_for_service_end();
    assert_eq!(home.value("deb", "USBFilterName1"), "any");
    assert!(
        home.fails(&["usbfilter", "remove", "1", "--target", "deb"])
            .contains("E_INVALIDARG")
    );

    assert!(home.ok(&["list", "usbfilters"]).contains("<none>"));
    home.ok(&[
        "usbfilter",
        "add",
        "0",
        "--target",
        "global",
        "--name",
        "keys",
        "--action",
        "hold",
    ]);
    home.ok(&[
        "usbfilter",
        "modify",
        "0",
        "--target",
        "global",
        "--productid",
        "00AF",
    ]);
    home.wait_for_service_end();
    let listed = home.ok(&["list", "usbfilters"]);
    for line in [
        "Index:            0\n",
        "Name:             keys\n",
        "ProductId:        00AF\n",
        "Action:           hold\n",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    assert!(global(&home).contains("action=\"Hold\""));
    home.ok(&["usbfilter", "remove", "0", "--target", "global"]);
    assert!(home.ok(&["list", "usbfilters"]).contains("<none>"));
}
