#!/bin/bash
# Runs the shipped unit under a real systemd: start, drop, reload, watchdog, crash, restart, stop; or, given
# the Debian package, follows docs/operations.md from its installation on, then upgrades, removes and purges it.
#
# Usage, as root on a machine with systemd's own package installed (it need not be running):
#     cargo build --release && tests/systemd.sh target/release/spoolmill
#     FEATURES= packaging/deb.sh && tests/systemd.sh target/debian/spoolmill_*.deb
#
# systemd becomes process 1 of new namespaces. What it would change outside is covered by overlays
# and empty file systems first: /etc, /usr, /var, /srv, /run and above all /tmp, which it empties.
set -euo pipefail

program=$(realpath "${1:?usage: tests/systemd.sh PROGRAM|PACKAGE.deb}")
if [ $# -gt 1 ] && [ "$2" != boot ]; then echo "one program or one package, not $*"; exit 2; fi
guide=$(realpath "$(dirname "$0")/../docs/operations.md")
unit=$(realpath "$(dirname "$0")/../systemd/spoolmill@.service")
work=${work:-$(mktemp -d /mnt/spoolmill-systemd.XXXXXX)}
group=/sys/fs/cgroup/systemd/spoolmill-test
export program unit work
export DEBIAN_FRONTEND=noninteractive
is_package() { [[ $program == *.deb ]]; }

# What the guide says for a machine without the package.
install_by_hand() {
    mkdir -p /etc/spoolmill /srv/spoolmill/in
    install -m 755 "$work/spoolmill" /usr/bin/spoolmill
    install -m 644 "$work/unit" "/etc/systemd/system/spoolmill@.service"
    useradd --system --no-create-home spoolmill
    chown -R spoolmill: /srv/spoolmill
}

# Inside the namespaces, before systemd.
boot() {
    mount --make-rprivate /
    # systemd measures its place from the root of its own cgroup namespace.
    mount -t tmpfs tmpfs "$work"
    # The folders that they are in are covered next.
    install -D -m 755 "$program" "$work/spoolmill"
    install -D -m 644 "$unit" "$work/unit"
    install -D -m 644 "$program" "$work/target/debian/spoolmill_test.deb"
    for folder in etc usr var; do
        mkdir -p "$work/$folder/upper" "$work/$folder/work"
        mount -t overlay overlay \
            -o "lowerdir=/$folder,upperdir=$work/$folder/upper,workdir=$work/$folder/work" "/$folder"
    done
    for folder in tmp run srv; do mount -t tmpfs tmpfs "/$folder"; done
    mount -t proc proc /proc
    mkdir -p /run/lock
    is_package || install_by_hand
    # Only the machine's own chores would run; none is wanted.
    for chore in systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-sysctl systemd-udevd \
        systemd-udev-trigger systemd-modules-load systemd-random-seed systemd-timesyncd \
        systemd-binfmt systemd-hwdb-update systemd-sysusers; do
        ln -sf /dev/null "/etc/systemd/system/$chore.service"
    done
    export container=spoolmill-test
    exec /lib/systemd/systemd --system --unit=sysinit.target --show-status=0 --log-target=journal
}
if [ "${2:-}" = boot ]; then boot; fi

mkdir -p "$group" && echo $$ > "$group/cgroup.procs"
unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup \
    bash "$0" "$program" boot > "$work.log" 2>&1 &
holder=$!
trap 'set +e; kill -9 "$holder" 2>/dev/null; wait "$holder" 2>/dev/null;
      echo $$ > /sys/fs/cgroup/systemd/cgroup.procs;
      find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null; rm -rf "$work" "$work.log"' EXIT

init=
until init=$(pgrep -P "$holder" -x systemd); do
    kill -0 "$holder" || { cat "$work.log"; exit 1; }
    read -rt 0.1 <> <(:) || true
done
inside() { nsenter -t "$init" -a "$@"; }
step() { printf '\n== %s\n' "$*"; }
until_true() {
    local tries=0
    until inside bash -c "$1" > /dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ]; then
            echo "FAILED: never true: $1"
            inside journalctl --no-pager -n 30 || true
            exit 1
        fi
        read -rt 0.2 <> <(:) || true
    done
}
main_pid() { inside systemctl show -p MainPID --value spoolmill@orders; }
drop() { inside bash -c "echo $2 > /srv/spoolmill/in/.$1 && mv /srv/spoolmill/in/.$1 /srv/spoolmill/in/$1"; }

until_true 'systemctl is-active sysinit.target'
inside systemctl --version | head -1

if is_package; then
    # apt-get looks for nothing but the package: what it depends on is there.
    from_zero=$(sed -n '/^## From zero to a service/,/^```$/p' "$guide" | sed -n '/^```sh/,/^```$/p' |
        sed '/^```/d; /^cargo install/d; /packaging\/deb.sh/d')
    step "the guide, from the installation on"
    echo "$from_zero"
    inside bash -ec "cd $work; $from_zero"
    until_true 'test -e /srv/spoolmill/in/processed-one'
    inside grep -x first /srv/spoolmill/orders.txt
    until_true 'spoolmill status -c /etc/spoolmill/orders.toml | grep "1 files"'
    # The image of a container may leave manuals out.
    inside bash -ec 'dpkg -L spoolmill; dpkg -L spoolmill | grep -q man1/spoolmill-requeue.1.gz
        dpkg -L spoolmill | grep -q bash-completion/completions/spoolmill; which spoolmill'

    step 'upgrade: the job goes on under the new program, rights that were changed stay'
    before=$(main_pid)
    inside bash -ec 'addgroup --quiet uploaders; chown spoolmill:uploaders /srv/spoolmill
        chmod 2770 /srv/spoolmill; chmod 0755 /etc/spoolmill'
    inside bash -ec "cd $work; apt-get install -y --reinstall ./target/debian/spoolmill_*.deb"
    until_true "test \$(systemctl show -p MainPID --value spoolmill@orders) -gt 0 &&
        test \$(systemctl show -p MainPID --value spoolmill@orders) != $before"
    rights=$(inside stat -c '%U:%G %a' /srv/spoolmill /etc/spoolmill | tr '\n' ' ')
    echo "rights: $rights"
    [ "$rights" = 'spoolmill:uploaders 2770 root:spoolmill 755 ' ]
    drop two second
    until_true 'test -e /srv/spoolmill/in/processed-two'

    step 'removal stops the jobs; also a purge leaves job files, ledgers and data'
    inside apt-get remove -y spoolmill
    [ "$(inside systemctl is-active spoolmill@orders)" != active ]
    inside bash -c '! test -e /usr/bin/spoolmill'
    inside apt-get purge -y spoolmill
    inside ls -l /etc/spoolmill/orders.toml /var/lib/spoolmill/orders/ledger.db /srv/spoolmill
    output=$(inside cat /srv/spoolmill/orders.txt | tr '\n' ' ')
    echo "output: $output"
    [ "$output" = 'first second ' ] && echo 'PASSED'
    exit
fi

step 'start'
inside bash -c 'cat > /etc/spoolmill/orders.toml' <<'TOML'
[input]
directory = "/srv/spoolmill/in"
[output]
path = "/srv/spoolmill/output.txt"
[http]
listen = "unix:/run/spoolmill/orders/http.sock"
TOML
inside bash -c 'mkdir -p /etc/systemd/system/spoolmill@.service.d
    printf "[Service]\nWatchdogSec=3s\nRestartSec=1s\n" > /etc/systemd/system/spoolmill@.service.d/test.conf
    systemctl daemon-reload'
inside systemctl start spoolmill@orders
inside systemctl is-active spoolmill@orders
drop a 1
until_true 'test -e /srv/spoolmill/in/processed-a'
until_true 'systemctl show -p StatusText --value spoolmill@orders | grep "1 committed"'
inside systemctl status --no-pager spoolmill@orders
inside ls -la /var/lib/spoolmill/orders /srv/spoolmill
inside grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp)' "/proc/$(main_pid)/status"

step 'looked at: from inside the unit by HTTP, from outside by the verbs of an administrator'
metrics() { inside curl -s --unix-socket /run/spoolmill/orders/http.sock "http://localhost/$1"; }
metrics readyz
metrics metrics | grep -E '^spoolmill_(microbatches_total|paused|start_timestamp_seconds)'
metrics status.json | grep -q "\"pid\":$(main_pid)" || metrics status.json | grep -q '"pid":[0-9]'
inside spoolmill status -c /etc/spoolmill/orders.toml
inside spoolmill status -c /etc/spoolmill/orders.toml | grep -q "process $(main_pid) runs"
inside spoolmill requeue -c /etc/spoolmill/orders.toml --again /srv/spoolmill/in/processed-a
until_true 'test -e /srv/spoolmill/in/processed-a && spoolmill status -c /etc/spoolmill/orders.toml |
    grep "2 files"'
inside spoolmill explain -c /etc/spoolmill/orders.toml a
inside spoolmill verify -c /etc/spoolmill/orders.toml
inside bash -c '! ls -A /var/lib/spoolmill/orders/requeued | grep .'

step 'reload: a wrong configuration keeps the old one, a right one takes its place'
inside bash -c 'cp /etc/spoolmill/orders.toml /etc/spoolmill/good
    sed -i "1a settle = \"soon\"" /etc/spoolmill/orders.toml'
inside systemctl reload spoolmill@orders
until_true 'journalctl -u spoolmill@orders | grep "was not reloaded"'
inside bash -c 'sed "1a pattern = \"b*\"" /etc/spoolmill/good > /etc/spoolmill/orders.toml'
inside systemctl reload spoolmill@orders
until_true 'journalctl -u spoolmill@orders | grep "configuration was reloaded"'
drop b 2
until_true 'test -e /srv/spoolmill/in/processed-b'

step 'crash: killed, started again by systemd, nothing twice'
before=$(main_pid)
inside systemctl kill -s KILL spoolmill@orders
until_true "test \$(systemctl show -p MainPID --value spoolmill@orders) -gt 0 &&
    test \$(systemctl show -p MainPID --value spoolmill@orders) != $before"
drop b2 3
until_true 'test -e /srv/spoolmill/in/processed-b2'

step 'watchdog: a daemon that hangs is killed and started again'
before=$(main_pid)
inside kill -STOP "$before"
until_true 'journalctl -u spoolmill@orders | grep -i "watchdog timeout"'
until_true "test \$(systemctl show -p MainPID --value spoolmill@orders) -gt 0 &&
    test \$(systemctl show -p MainPID --value spoolmill@orders) != $before"
drop b3 4
until_true 'test -e /srv/spoolmill/in/processed-b3'

step 'stop'
inside systemctl stop spoolmill@orders
inside systemctl show -p ActiveState -p Result -p ExecMainStatus -p NRestarts spoolmill@orders

step 'a wrong configuration is tried a few times, then it rests'
inside bash -c 'echo nonsense > /etc/spoolmill/orders.toml'
inside systemctl start spoolmill@orders || true
until_true 'test $(systemctl show -p ActiveState --value spoolmill@orders) = failed'
inside systemctl show -p ActiveState -p Result -p NRestarts spoolmill@orders

step 'result'
inside journalctl --no-pager -o cat -u spoolmill@orders
output=$(inside cat /srv/spoolmill/output.txt | tr '\n' ' ')
echo "output: $output"
[ "$output" = '1 1 2 3 4 ' ] && echo 'PASSED'
