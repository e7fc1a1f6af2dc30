#!/usr/bin/python3
"""Lists the machines, and starts the one that is named, over the Main API's socket.

    docs/examples/machines.py [NAME]

Uses only Debian's python3-dbus. VBoxSVC has to be in PATH.
"""

import subprocess
import sys
import time

import dbus
from dbus.connection import Connection


def connect():
    """The service's socket; the service is started when none runs."""
    address = subprocess.run(["VBoxSVC", "--address"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        return Connection(address)
    except dbus.DBusException:
        # Says that it serves, and goes on in the background.
        service = subprocess.Popen(["VBoxSVC", "--auto-shutdown"], stdout=subprocess.PIPE)
        service.stdout.readline()
        return Connection(address)


CONNECTION = connect()


def call(path, interface, method, *arguments):
    return dbus.Interface(CONNECTION.get_object(None, path, introspect=False), f"org.oxbox.{interface}") \
        .get_dbus_method(method)(*arguments)


def get(path, interface, attribute):
    return CONNECTION.get_object(None, path, introspect=False) \
        .Get(f"org.oxbox.{interface}", attribute, dbus_interface="org.freedesktop.DBus.Properties")


def main():
    for machine in get("/VirtualBox", "IVirtualBox", "machines"):
        print(get(machine, "IMachine", "name"), get(machine, "IMachine", "id"))
    for name in sys.argv[1:]:
        machine = call("/VirtualBox", "IVirtualBox", "findMachine", name)
        session = call("/VirtualBox", "IWebsessionManager", "getSessionObject", dbus.ObjectPath("/VirtualBox"))
        progress = call(machine, "IMachine", "launchVMProcess", session, "headless", dbus.Array([], signature="s"))
        while not get(progress, "IProgress", "completed"):
            time.sleep(0.1)
        if get(progress, "IProgress", "resultCode") != 0:
            error = get(progress, "IProgress", "errorInfo")
            sys.exit(f"{name}: {get(error, 'IVirtualBoxErrorInfo', 'text')}")
        call(session, "ISession", "unlockMachine")
        print(f"{name}: started")


if __name__ == "__main__":
    main()
