#!/usr/bin/env bash
# Runs commands on two hosts: `two-hosts.sh NAME THERE HERE`. A cable lies between their interfaces eth1. From here ssh reaches the other one,
# by NAME and by a network of its own. THERE runs meanwhile; it ends with HERE, whose exit code is this one's. The hosts are namespaces.
set -euo pipefail
readonly NAME=$1 THERE=$2 HERE=$3
PATH=$PATH:/usr/sbin:/sbin
readonly HOSTS=(two$$-here two$$-there)
work=$(mktemp -d)
processes=()

down() {
    trap '' INT TERM HUP
    if ((${#processes[@]})); then
        kill "${processes[@]}" 2>/dev/null || true
        wait "${processes[@]}" 2>/dev/null || true
    fi
    local host
    for host in "${HOSTS[@]}"; do ip netns delete "$host" 2>/dev/null || true; done
    rm -rf "$work"
}
trap down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for host in "${HOSTS[@]}"; do ip netns add "$host"; done
for cable in eth0 eth1; do
    ip link add "$cable" netns "${HOSTS[0]}" type veth peer name "$cable" netns "${HOSTS[1]}"
    # The sending end first: with GRO it takes what an XDP program at the other end sends (drivers/net/veth.c, veth_xdp_xmit).
    ip netns exec "${HOSTS[1]}" ethtool -K "$cable" tx off tso off gso off gro on >/dev/null
    ip netns exec "${HOSTS[0]}" ethtool -K "$cable" tx off tso off gso off >/dev/null
done
for at in 0 1; do
    ip -n "${HOSTS[at]}" -batch - <<END
link set lo up
link set eth0 up
link set eth1 up
address add 198.51.100.$((at + 1))/24 dev eth0
address add 192.0.2.$((at + 2))/24 dev eth1
END
    ip netns exec "${HOSTS[at]}" sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth1.send_redirects=0
done

# ssh and its server take the folder of the account, and not $HOME: it is another one in the namespaces of these hosts only.
mkdir -p ~root/.ssh
chmod 700 "$work"
mkdir -m 700 "$work/ssh"
ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/id_ed25519"
install -m 600 "$work/ssh/id_ed25519.pub" "$work/ssh/authorized_keys"
install -m 600 /dev/stdin "$work/ssh/config" <<END
Host $NAME
    HostName 198.51.100.2
    StrictHostKeyChecking accept-new
    LogLevel ERROR
END
dropbearkey -t ed25519 -f "$work/host-key" >/dev/null 2>&1
on() { # HOST COMMAND
    exec ip netns exec "$1" bash -c "set -euo pipefail; mount --bind $work/ssh ~root/.ssh; mount -t bpf bpf /sys/fs/bpf; $2"
}
on "${HOSTS[1]}" "exec dropbear -F -E -s -P $work/pid -r $work/host-key -p 22" </dev/null 2>"$work/dropbear" &
processes+=($!)
for ((tries = 0; tries < 100; tries++)); do
    ! (on "${HOSTS[0]}" "ssh -o BatchMode=yes $NAME true" 2>"$work/refused") || break
    sleep 0.1
done
((tries < 100)) || { cat "$work/refused" "$work/dropbear" >&2; exit 1; }
on "${HOSTS[1]}" "$THERE" </dev/null &
processes+=($!)
code=0
(on "${HOSTS[0]}" "$HERE") || code=$?
exit "$code"
