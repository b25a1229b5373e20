# A server that never accepts, clients that find no room, and whether the agent counted what the kernel counted.
# Runs in a network namespace of its own, which the agent serves in too. Argument: the agent's address.
import os, re, socket, sys, time, urllib.request

ADDRESS = sys.argv[1]
PORT, BACKLOG, CLIENTS = 8080, 5, 20
LIMIT_S = 60


def listen_drops():
    names, values = [line.split() for line in open("/proc/self/net/netstat") if line.startswith("TcpExt:")]
    return int(values[names.index("ListenDrops")])


def get(path):
    with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=10) as answer:
        return answer.read().decode()


def rows(metric, **labels):
    found = re.findall(rf"^{metric}{{([^}}]*)}} (\S+)$", get("/metrics"), re.MULTILINE)
    wanted = {f'{name}="{value}"' for name, value in labels.items()}
    return [float(value) for labels, value in found if wanted <= set(labels.split(","))]


def until(what, attempt):
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            seen = attempt()
        except OSError as error:
            seen = error
        if seen is True:
            return
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {LIMIT_S} s, last seen: {seen}")
        time.sleep(0.2)


until("readiness", lambda: get("/readyz") is not None)
server = socket.create_server(("127.0.0.1", PORT), backlog=BACKLOG)
clients = [socket.socket() for _ in range(CLIENTS)]
for client in clients:
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", PORT))
# Each client that found no room sends its SYN again after a second.
refused = CLIENTS - BACKLOG - 1
until("drops by the kernel's count", lambda: listen_drops() >= 2 * refused or listen_drops())
for client in clients:
    client.close()
netns = os.stat("/proc/self/ns/net").st_ino
process = open("/proc/self/comm").read().strip()
kernel = listen_drops()
mine = dict(netns=netns, port=PORT, process=process)


def counted():
    seen = sum(rows("tracer_tcp_listen_drops_total", **mine))
    difference = rows("tracer_count_difference", netns=netns, signal="listen_drops")
    return (seen, difference) == (kernel, [0.0]) or f"{seen} of {kernel}, difference {difference}"


until("the kernel's count at the listener", counted)
if kernel != listen_drops():
    sys.exit("the clients went on after they were closed")
print(f"listen drops of {process} at port {PORT}: {kernel} by the kernel, {kernel} by the agent in the container")
