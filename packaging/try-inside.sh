#!/usr/bin/env bash
# What packaging/try.sh does inside of its container, where systemd is the first process.
set -Eeuo pipefail
trap 'wrong "line $LINENO: $BASH_COMMAND"' ERR

step() { echo "--- $*"; }
wrong() {
    echo "WRONG: $*"
    systemctl status --no-pager usnetd.service || true
    journalctl --no-pager -u usnetd.service | tail -40 || true
    cat /try/echo.said 2>/dev/null || true
    exit 1
}
until_true() { # WHAT COMMAND...: at most ten seconds
    local what=$1
    shift
    for _ in $(seq 100); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    wrong "$what"
}
main_pid() { systemctl show -P MainPID usnetd.service; }
is_another() { # than this process, and ready
    local pid
    pid=$(main_pid)
    [ "$pid" != 0 ] && [ "$pid" != "$1" ] && systemctl is-active --quiet usnetd.service
}
outside() { ip netns exec outside "$@"; }
is_served() { outside ping -c 1 -W 1 192.0.2.1; }
echoes() { # as an ordinary user of the group, over the switch
    : >/try/echo.said
    setpriv --reuid=nobody --regid=nogroup --groups="$(getent group usnet | cut -d: -f3)" --inh-caps=-all \
        /try/echo /run/usnetd/control.sock 4007 >/try/echo.said 2>&1 &
    local client=$! answer=""
    until_true "no client" grep -q "echo on udp port 4007" /try/echo.said
    # A datagram is read at once or not at all, which `read` does not do.
    answer=$(outside timeout 5 bash -c 'exec 3<>/dev/udp/192.0.2.1/4007; for i in 1 2 3 4 5; do
        echo hello >&3; timeout 1 dd bs=64 count=1 status=none <&3 && break; done; true')
    kill "$client"
    wait "$client" || true
    [ "$answer" = hello ] || wrong "the client's echo: '$answer'"
}

step "a network"
ip link set lo up
ip netns add outside
ip link add eth1 type veth peer name peer1 netns outside
ip address add 192.0.2.1/24 dev eth1
ip link set eth1 up
outside ip address add 192.0.2.9/24 dev peer1
outside ip link set peer1 up
until_true "the network does not work" is_served
ip -details -json address show dev eth1 | jq -c '.[0] | {flags, mtu, promiscuity, addr_info: [.addr_info[].local]}' >/try/before

step "installed"
dpkg --install /try/usnetd.deb
getent passwd usnetd
getent group usnet
[ "$(systemctl is-enabled usnetd.service)" = disabled ] || wrong "it is enabled before it was configured"
man --where usnetd usnetctl
bash -c '. /usr/share/bash-completion/completions/usnetctl'
usnetd check /etc/usnetd/usnetd.toml >/dev/null

step "started"
cat >/etc/usnetd/usnetd.toml <<'TOML'
[control]
group = "usnet"
[[interface]]
name = "eth1"
port = "af_packet"
[[policy]]
gid = "usnet"
ports = ["udp/4007"]
TOML
mkdir /etc/systemd/system/usnetd.service.d
printf '[Service]\nWatchdogSec=2\n' >/etc/systemd/system/usnetd.service.d/soon.conf
systemctl daemon-reload
systemctl start usnetd.service || wrong "it does not start"
ps -o user=,comm= -p "$(main_pid)"
[ "$(ps -o user= -p "$(main_pid)")" = usnetd ] || wrong "it is not its own user"
usnetctl status
until_true "the kernel's stack is cut off" is_served
echoes

step "reloaded"
before=$(main_pid)
sed -i 's|"udp/4007"|"udp/4007", "tcp/80"|' /etc/usnetd/usnetd.toml
systemctl reload usnetd.service
[ "$(main_pid)" = "$before" ] || wrong "it is another process"
until_true "the new policy is not in force" bash -c "journalctl --no-pager -u usnetd.service | grep -q 'another configuration is in force'"

step "killed: systemd starts it again"
kill -KILL "$before"
until_true "it is not started again" is_another "$before"
until_true "the kernel's stack is cut off" is_served
echoes

step "stopped for too long: the watchdog ends it"
before=$(main_pid)
kill -STOP "$before"
until_true "the watchdog does nothing" is_another "$before"
journalctl --no-pager -u usnetd.service | grep -i watchdog | tail -1
until_true "the kernel's stack is cut off" is_served
echoes

step "started by who connects"
systemctl stop usnetd.service
systemctl start usnetd.socket
[ "$(systemctl is-active usnetd.service)" = inactive ] || wrong "it runs already"
usnetctl status >/dev/null
systemctl is-active usnetd.service
echoes

step "removed"
dpkg --remove usnetd
[ ! -e /usr/bin/usnetd ] || wrong "the program is still there"
[ -z "$(pgrep usnetd || true)" ] || wrong "a process is still there"
ip -details -json address show dev eth1 | jq -c '.[0] | {flags, mtu, promiscuity, addr_info: [.addr_info[].local]}' >/try/after
diff /try/before /try/after || wrong "the interface is not as it was"
[ -z "$(nft list ruleset | grep usnet || true)" ] || wrong "a firewall table was left"
until_true "the kernel's stack is cut off" is_served
dpkg --purge usnetd
[ ! -e /etc/usnetd/usnetd.toml ] && [ ! -e /var/lib/usnetd ] || wrong "files were left"

echo "everything holds"
