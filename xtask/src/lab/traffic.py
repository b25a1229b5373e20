"""Traffic that runs into TCP's limits: one act a process, in a network namespace of its own.

`python3 -c THIS ACT PROCESS`, started by xtask in the namespace and the cgroup that the act plays in. Each act is a
loop over one experiment, so that it goes on for as long as its input stays open; when xtask ends, however it ends,
the input closes and so does the act, and the kernel removes the namespace with it. Settings are those of the
act's own namespace. Says `here` when it runs and `ready` once it is set up.
"""

import itertools
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

HERE = "127.0.0.1"
# The two ends of the link that loses segments.
SERVER, CLIENT = "10.78.0.1", "10.78.0.2"


def setting(name, value):
    with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
        file.write(str(value))


def run(*words):
    subprocess.run(words, check=True)


def drop(hook, *rules):
    """Loses the packets of the namespace that any of the rules matches."""
    lines = ["add table inet lab", f"add chain inet lab {hook} {{ type filter hook {hook} priority 0; }}"]
    lines += [f"add rule inet lab {hook} {rule} drop" for rule in rules]
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)


def listen(port, backlog, address=HERE):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(backlog)
    return server


def connect_later(port, address=HERE):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex((address, port))
    return client


def try_connect(address, timeout=None):
    """A call of connect() that may end as it likes."""
    client = socket.socket()
    client.settimeout(timeout)
    try:
        client.connect(address)
    except OSError:
        pass
    client.close()


def send_in_vain(address):
    """Data on a path that lets only small packets through: a time-out of retransmission after the other."""
    with socket.create_connection(address) as client:
        client.sendall(bytes(1000))
        time.sleep(2)
        reset(client)


def reset(client):
    """Closes the connection without TIME_WAIT."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def drain(server):
    """Accepts and closes all that wait."""
    server.setblocking(False)
    try:
        while True:
            server.accept()[0].close()
    except BlockingIOError:
        server.setblocking(True)


def close_all(sockets):
    for each in sockets:
        each.close()


def start(work, *args):
    threading.Thread(target=work, args=args, daemon=True).start()


def accept_and(server, serve):
    """Serves each connection of the listener in a thread."""

    def loop():
        while True:
            start(serve, server.accept()[0])

    start(loop)


def discard(connection):
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    connection.close()


def overflow():
    """A backlog of 5 and 20 clients: six are queued, fourteen send their SYNs again and again."""
    server = listen(8080, 5)
    yield
    while True:
        clients = [connect_later(8080) for _ in range(20)]
        time.sleep(6)
        drain(server)
        close_all(clients)
        time.sleep(0.5)


def stuck():
    """A server that hangs: its queue is full all the time."""
    server = listen(8081, 5)
    yield
    queued = [connect_later(8081) for _ in range(6)]
    while queued:
        more = [connect_later(8081) for _ in range(4)]
        time.sleep(20)
        close_all(more)
    server.close()


def half_open():
    """SYNs from nowhere against a small SYN queue: some are dropped, some get cookies."""
    setting("tcp_max_syn_backlog", 16)
    setting("tcp_syncookies", 1)
    # Lost on the way to the client: a SYN-ACK that the host itself refuses to send is another story.
    drop("input", "tcp sport 8443 tcp flags & (syn | ack) == syn | ack")
    server = listen(8443, 8)
    yield
    clients = []
    while True:
        clients.append(connect_later(8443))
        close_all(clients[:-40])
        del clients[:-40]
        drain(server)
        # The first one by one: what came together would expire together and leave the queue half empty.
        time.sleep(0.4 if len(clients) < 12 else 0.05)


def healthy():
    """A server that keeps up with its clients."""
    accept_and(listen(8000, 128), discard)
    yield
    while True:
        with socket.create_connection((HERE, 8000)) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        time.sleep(0.1)


def database():
    """The end of a link that answers; xtask adds the link."""
    link(SERVER)
    drop("input", "meta l4proto tcp numgen random mod 100 < 4")
    accept_and(listen(5432, 128, SERVER), answer)
    yield
    threading.Event().wait()


def answer(connection):
    try:
        while connection.recv(1024):
            connection.sendall(bytes(20_000))
    except OSError:
        pass
    connection.close()


def gateway():
    """The end of a link that asks: both lose one segment in 25."""
    link(CLIENT)
    drop("input", "meta l4proto tcp numgen random mod 100 < 4")
    yield
    connections = []
    for turn in itertools.count():
        try:
            if turn % 200 == 0 or not connections:
                close_all(connections)
                connections = [socket.create_connection((SERVER, 5432), timeout=20) for _ in range(4)]
            for each in connections:
                each.sendall(b"SELECT 1")
            for each in connections:
                receive(each, 20_000)
        except OSError:
            connections = []
        time.sleep(0.05)


def receive(connection, count):
    while count > 0:
        data = connection.recv(count)
        if not data:
            return
        count -= len(data)


def time_wait():
    """A client that closes more connections than the namespace may keep in TIME_WAIT."""
    setting("tcp_max_tw_buckets", 64)
    accept_and(listen(6379, 128), discard)
    yield
    while True:
        for _ in range(40):
            socket.create_connection((HERE, 6379)).close()
        time.sleep(1)


def ports():
    """A client that has nearly all ports of its range open to one destination, and now and then asks for more."""
    setting("ip_local_port_range", "42000 42099")
    accept_and(listen(9200, 128), discard)
    kept = [socket.create_connection((HERE, 9200)) for _ in range(92)]
    yield
    while True:
        more = [socket.socket() for _ in range(12)]
        for each in more:
            try:
                each.connect((HERE, 9200))
            except OSError:
                pass
        time.sleep(1)
        # Resets leave no TIME_WAIT behind, so that the ports are free again.
        for each in more:
            reset(each)
        time.sleep(5)


def close_wait():
    """A server that forgets to close what its clients have closed, until it has hardly a descriptor left."""
    descriptors = 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    server = listen(8090, 128)
    yield
    forgotten = []
    while True:
        for _ in range(8):
            if len(forgotten) < descriptors - 40:
                client = socket.create_connection((HERE, 8090))
                forgotten.append(server.accept()[0])
                client.close()
        time.sleep(1)


def retries():
    """connect() through a network that loses four SYNs in ten, to nowhere, to where nobody listens, and to where
    nothing larger than a handshake arrives."""
    # The host itself refuses to send what goes to port 2528.
    setting("tcp_syn_retries", 2)
    drop(
        "input",
        "tcp dport 2525 tcp flags & (syn | ack) == syn numgen random mod 10 < 4",
        "tcp dport 2526",
        "tcp dport 2529 meta length > 500",
    )
    drop("output", "tcp dport 2528")
    for port in (2525, 2529):
        accept_and(listen(port, 128), discard)
    yield
    for turn in itertools.count():
        start(try_connect, (HERE, 2525))
        # Often enough that a busy machine counts some in any few seconds: tables show only the last ones.
        if turn % 4 == 0:
            start(send_in_vain, (HERE, 2529))
            for port in (2526, 2528):
                start(try_connect, (HERE, port))
        if turn % 8 == 0:
            try_connect((HERE, 2527))
        time.sleep(0.25)


def closed_window():
    """A receiver that does not read: its window closes, and the sender probes it."""
    server = listen(9092, 16)
    yield
    while True:
        client = connect_later(9092)
        select.select([], [client], [])
        connection = server.accept()[0]
        for _ in range(100):
            try:
                client.send(bytes(65536))
            except BlockingIOError:
                time.sleep(0.2)
        connection.close()
        client.close()


def link(address):
    """Waits until xtask has put this end of the link here, and gives it its address."""
    deadline = time.monotonic() + 20
    while "eth0" not in (name for _, name in socket.if_nameindex()):
        if time.monotonic() > deadline:
            sys.exit("no eth0 after 20 s")
        time.sleep(0.05)
    run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")


ACTS = {act.__name__: act for act in (
    overflow, stuck, half_open, healthy, database, gateway, time_wait, ports, close_wait, retries, closed_window)}


def main(name, process):
    # The terminal's Ctrl-C is for xtask, which closes the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open("/proc/self/comm", "w") as file:
        file.write(process)
    print("here", flush=True)
    run("ip", "link", "set", "lo", "up")
    act = ACTS[name]()
    next(act)
    print("ready", flush=True)
    start(play, act)
    sys.stdin.read()


def play(act):
    """An act does not end of itself; if it fails, so does the process, which xtask notices."""
    try:
        next(act)
    finally:
        traceback.print_exc()
        os._exit(1)


main(*sys.argv[1:])
