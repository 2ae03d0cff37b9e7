#!/usr/bin/env bash
# Several hosts on one machine: network namespaces with a host name and an address each, joined by a
# switch through links of a given rate and delay. Needs root, iproute2 and Open MPI.
#
#   tests/hosts.sh make 4 1gbit 50us     # four hosts; each sends at most 1 Gbit/s, 50 µs late
#   tests/hosts.sh mpirun -n 4 target/release/mediswift bench comm
#   tests/hosts.sh in NAME-2 COMMAND…    # on the second host, as ssh would
#   tests/hosts.sh cut NAME-2            # takes its link away; mend gives it back
#   tests/hosts.sh remove
#
# Hosts are called $HOSTS-1, $HOSTS-2, …; HOSTS is "host" where it is not set. Whoever may run at the same
# time as others takes a name of its own. They share files and processes: `ps` and `kill` reach all ranks.
# Where the kernel has no netem, frames wait in a process (tests/delay.py), which adds about 0.1 ms and lets no
# more than some 3 Gbit/s through.
# `mpirun` takes arguments as Open MPI's does, deals ranks to hosts in turns, and lets them talk
# over TCP alone. Rate is tc's, such as 200mbit; 0 is no limit. Hosts that are there are made anew.
set -euo pipefail

name=${HOSTS:-host}
here=$(realpath "$(dirname "$0")")
switch=$name-switch

hosts() { ip netns list | cut -d' ' -f1 | grep -E "^$name-[0-9]+$" | sort -t- -k2 -V || true; }

remove() {
    local host
    if [ -e "/run/$switch.delays" ]; then
        xargs -r kill <"/run/$switch.delays" 2>/dev/null || true
        rm "/run/$switch.delays"
    fi
    for host in $(hosts) $switch; do
        ip netns delete "$host" 2>/dev/null || true
        rm -rf "/etc/netns/$host"
    done
}

make() {
    local count=$1 rate=${2:-0} delay=${3:-0} names="127.0.0.1 localhost" n host
    remove
    for ((n = 1; n <= count; n++)); do names+=$'\n'"10.77.0.$n $name-$n"; done
    ip netns add "$switch"
    ip -n "$switch" link add bridge type bridge
    ip -n "$switch" link set bridge up
    for ((n = 1; n <= count; n++)); do
        host=$name-$n
        ip netns add "$host"
        mkdir -p "/etc/netns/$host"
        echo "$names" >"/etc/netns/$host/hosts"
        link "$host" "port$n"
        ip -n "$host" link set lo up
        # Little more than a frame may pass a queue at once, or short messages would be faster than the link.
        ip -n "$host" link set eth0 gso_max_size 32768 up
        ip -n "$host" address add "10.77.0.$n/24" dev eth0
        [ "$rate" = 0 ] ||
            tc -n "$host" qdisc add dev eth0 root handle 1: tbf rate "$rate" burst 40kb latency 2ms
        ip -n "$switch" link set "port$n" master bridge up
    done
}

# Joins interface eth0 of the namespace $1 to interface $2 of the switch.
link() {
    local waits=/run/$switch.$2
    if [ "$delay" = 0 ] || has_netem; then
        ip -n "$1" link add eth0 type veth peer name "$2" netns "$switch"
        [ "$delay" = 0 ] || tc -n "$switch" qdisc add dev "$2" root netem delay "$delay" limit 100000
        return
    fi
    mkfifo "$waits"
    ip netns exec "$switch" python3 "$here/delay.py" "to-$2" "$2" "$(microseconds)" >"$waits" 2>&1 &
    echo $! >>"/run/$switch.delays"
    head -n 1 <"$waits" | grep -q ready
    rm "$waits"
    ip -n "$switch" link set "to-$2" netns "$1" name eth0
}

has_netem() { tc -n "$switch" qdisc add dev bridge root netem 2>/dev/null; }

microseconds() {
    case $delay in
        *us) echo "${delay%us}" ;;
        *ms) echo "${delay%ms}000" ;;
        *) echo "$delay: a delay is such as 50us or 2ms" >&2 && exit 2 ;;
    esac
}

in_host() {
    local host=$1
    shift
    exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0" && exec sh -c "$*"' "$host" "$@"
}

start() {
    local list
    list=$(hosts | paste -sd,)
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    exec ip netns exec "$name-1" unshare --uts sh -c 'hostname "$0" && exec "$@"' "$name-1" \
        mpirun --host "$list" --map-by node --oversubscribe --bind-to none \
        --mca plm_rsh_agent "$here/hosts.sh in" --mca pml ob1 --mca btl tcp,self \
        --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 "$@"
}

case ${1:-} in
    make) make "${@:2}" ;;
    remove) remove ;;
    in) in_host "${@:2}" ;;
    mpirun) start "${@:2}" ;;
    cut) ip -n "$2" link set eth0 down ;;
    mend) ip -n "$2" link set eth0 up ;;
    *) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 2 ;;
esac
