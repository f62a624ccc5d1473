#!/bin/bash
# Makes a Vigil node of a freshly flashed card. The operating system's own first boot runs it, as root:
#
#     bash /boot/firmware/vigil/firstboot.sh
#
# It makes itself a service, and that does the work: after a power cut it goes on at the next boot, while the network
# or the site's authority is away it tries again. What it does stands in firstboot.log beside it, where any computer
# can read it: the last line says DONE, or what failed and the cure. The whole output is in /var/log/vigil-firstboot.log.
#
#     firstboot.sh [install|run] [--root DIR]      DIR: another root than /, for trying it out
set -u
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
umask 022

command=install
root=
while [ $# -gt 0 ]; do
    case $1 in
        install | run) command=$1 ;;
        --root) root=$2; shift ;;
        *) echo "usage: firstboot.sh [install|run] [--root DIR]" >&2; exit 2 ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")" && pwd)
state=$root/var/lib/vigil-firstboot
program=$state/firstboot.sh
unit=vigil-firstboot.service
home=$root/opt/vigil
settings=$root/etc/vigil/vigil.yaml
output=$root/var/log/vigil-firstboot.log
pause_s=${VIGIL_FIRSTBOOT_PAUSE_S:-10} # before the first repetition; it doubles up to ten minutes
tries=${VIGIL_FIRSTBOOT_TRIES:-0}      # 0: for ever
clock_s=${VIGIL_FIRSTBOOT_CLOCK_S:-60} # how long it is waited for somebody who tells the time

# --- telling --------------------------------------------------------------------------------------------------

say() { # LINE...: to the card, on disk at once
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$card/firstboot.log"
    sync "$card/firstboot.log" 2>/dev/null || sync
    printf '%s\n' "$*"
}

fail() { # STEP WHAT CURE
    say "FAILED at $1: $2. CURE: $3"
    exit 1
}

last_words() { # what the last command printed, as one line
    tail -n 4 "$output" | tr '\n' ' ' | cut -c 1-600
}

logged() { # COMMAND...: all that it prints goes to the log of the root file system
    printf '\n$ %s\n' "$*" >>"$output"
    "$@" >>"$output" 2>&1 </dev/null
}

# --- the card -------------------------------------------------------------------------------------------------

find_card() { # the folder with what was written for this node
    for card in "$here" "$root/boot/firmware/vigil" "$root/boot/vigil"; do
        [ -r "$card/card.env" ] && return
    done
    echo "vigil: no card.env beside firstboot.sh, nor in /boot/firmware/vigil: flash the card again" >&2
    exit 1
}

fact() { # NAME: what the card says; it is read, never run
    sed -n "s/^$1=//p" "$card/card.env" | head -n 1 | tr -d '\r'
}

is_done() { [ -e "$state/done.$1" ]; }

mark_done() {
    : >"$state/done.$1"
    sync "$state/done.$1" 2>/dev/null || sync
}

# --- making itself a service ----------------------------------------------------------------------------------

install_unit() {
    mkdir -p "$state" "$root/etc/systemd/system"
    cp "$here/firstboot.sh" "$program.new" && mv "$program.new" "$program"
    cat >"$root/etc/systemd/system/$unit.new" <<UNIT
[Unit]
Description=Vigil: the first boot of this node
After=network.target local-fs.target time-sync.target
ConditionPathExists=!/var/lib/vigil-firstboot/done.all
RequiresMountsFor=/boot/firmware
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=/bin/bash /var/lib/vigil-firstboot/firstboot.sh run
# What fails for good is tried again at the next boot; what was killed, at once.
Restart=on-abnormal
RestartSec=10
StandardOutput=journal+console

[Install]
WantedBy=multi-user.target
UNIT
    mv "$root/etc/systemd/system/$unit.new" "$root/etc/systemd/system/$unit"
    sync
    systemctl daemon-reload
    systemctl enable "$unit"
    # firstrun.sh of older systems runs in a boot that has neither network nor services, and ends in a reboot.
    if ! grep -q 'systemd\.run=' "$root/proc/cmdline" 2>/dev/null; then
        systemctl start --no-block "$unit"
    fi
}

# --- the steps ------------------------------------------------------------------------------------------------

set_clock() { # a Raspberry Pi has no clock of its own, and certificates are refused by one that is far behind
    local written waited_s=0
    written=$(fact WRITTEN_AT_S)
    while [ "$(date +%s)" -lt "${written:-0}" ] && [ "$waited_s" -lt "$clock_s" ]; do
        sleep 5
        waited_s=$((waited_s + 5))
    done
    if [ "$(date +%s)" -lt "${written:-0}" ]; then
        logged date -u -s "@$written" || say "the clock is behind and cannot be set"
        say "nobody has told the time: it begins with the moment the card was written"
    fi
}

unpack() { # the bundle, onto the root file system
    [ -e "$card/bundle.tar" ] || return 0
    if ! logged python3 "$card/install.py" unpack "$card/bundle.tar" "$state/bundle"; then
        fail bundle "$(last_words)" "build the bundle again and write the card anew; a larger card where space is short"
    fi
    say "bundle unpacked"
}

missing_packages() { # those of the list that are not installed
    local package
    while read -r package; do
        dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

wanted_packages() {
    if [ -e "$state/bundle/manifest.json" ]; then
        python3 -c 'import json, sys; print("\n".join(json.load(open(sys.argv[1]))["packages"]))' \
            "$state/bundle/manifest.json"
    fi
}

install_packages() {
    local missing
    logged dpkg --configure -a # what a power cut left half installed
    if compgen -G "$state/bundle/packages/*.deb" >/dev/null; then
        # What one of them needs before it is even unpacked is there the second time. Another may hold dpkg's lock.
        retry 4 logged dpkg_install || say "some packages of the bundle were not installed"
    fi
    missing=$(wanted_packages | missing_packages)
    if [ -n "$missing" ]; then
        say "not in the bundle, so from the internet: $(echo "$missing" | tr '\n' ' ')"
        # shellcheck disable=SC2086 # one word a package
        retry "$tries" logged apt_install $missing ||
            fail packages "$(last_words)" "connect the node to the internet, or build the bundle with --image of this card's system"
    fi
    say "packages of the distribution installed"
}

lacking() { # those of the bundle whose very version is not installed; told by their names, which is quick
    dpkg-query --show --showformat '${db:Status-Status} ${Package}_${Version}_${Architecture}.deb\n' |
        sed -n 's/^installed //p' | sed 's/:/%3a/' >"$state/installed"
    (cd "$state/bundle/packages" && printf '%s\n' *.deb) | grep -vxFf "$state/installed"
}

dpkg_install() {
    local status=0
    mapfile -t packages < <(lacking)
    if [ ${#packages[@]} -gt 0 ]; then
        (cd "$state/bundle/packages" && dpkg --install --refuse-downgrade --force-confold "${packages[@]}") || status=$?
    fi
    dpkg --configure --pending && return "$status"
}

apt_install() { apt-get update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; }

retry() { # TIMES COMMAND...: with longer and longer pauses, until it works or was tried so often; 0: for ever
    local times=$1 wait_s=$pause_s count=1
    shift
    until "$@"; do
        [ "$times" -gt 0 ] && [ "$count" -ge "$times" ] && return 1
        # Whoever reads the card sees what it waits for.
        [ "$count" -gt 1 ] || say "it did not work, and is tried again and again: $(last_words)"
        count=$((count + 1))
        sleep "$wait_s"
        wait_s=$(longer "$wait_s")
    done
}

longer() { echo $(($1 * 2 > 600 ? 600 : $1 * 2)); } # SECONDS: the next pause

make_user() {
    id -u vigil >/dev/null 2>&1 ||
        logged useradd --system --user-group --home-dir /var/lib/vigil --no-create-home --shell /usr/sbin/nologin vigil ||
        fail user "$(last_words)" "look into $output"
    for group in video render gpio i2c; do
        getent group "$group" >/dev/null && logged usermod --append --groups "$group" vigil
    done
    mkdir -p "$root/var/lib/vigil"
    chown vigil: "$root/var/lib/vigil"
    chmod 700 "$root/var/lib/vigil"
}

is_complete() { grep -q '"is_complete": *true' "$state/bundle/manifest.json"; }

install_vigil() {
    local times=3
    [ -e "$state/bundle/manifest.json" ] || [ -x "$home/launch" ] ||
        fail install "there is no bundle on the card" "install Vigil by hand in $home, then: systemctl start $unit"
    [ -e "$state/bundle/manifest.json" ] || return 0
    is_complete || times=$tries # what is not in it comes over the network, which may be away for long
    if ! retry "$times" logged python3 "$state/bundle/install.py" install "$state/bundle" --root "${root:-/}" --activate; then
        rm -f "$state/done.bundle" # the next boot unpacks it again: a power cut may have damaged files
        fail install "$(last_words)" "start the node again; if that does not help, build the bundle again and write the card anew"
    fi
    say "Vigil installed: $(readlink "$home/current")"
}

write_settings() {
    mkdir -p "$root/etc/vigil"
    # A person's own changes stay.
    if [ ! -e "$settings" ]; then
        # It may name cameras with their passwords.
        { install -m 640 "$card/vigil.yaml" "$settings.new" && mv "$settings.new" "$settings"; } 2>>"$output" ||
            fail settings "$(last_words)" "write the card anew"
    fi
    chown root:vigil "$root/etc/vigil" "$settings"
    chmod 750 "$root/etc/vigil"
    chmod 640 "$settings"
    sync
}

as_vigil() { # ARGUMENTS of vigil...; standard input stays
    runuser -u vigil -- "$home/launch" --config "$settings" --state "$root/var/lib/vigil" "$@"
}

is_enrolled() { compgen -G "$root/var/lib/vigil/identity/*.crt" >/dev/null; }

join_once() { # 0: joined. 1: refused for good. 69: nobody answers
    printf '\n$ vigil join\n' >>"$output"
    as_vigil join "$(fact AUTHORITY)" <"$card/token" >>"$output" 2>&1
}

join_site() {
    local wait_s=$pause_s count=1 status told=
    until is_enrolled; do
        [ -s "$card/token" ] ||
            fail enrolment "there is no token on the card" "put one of \`vigil enrol $(fact NODE)\` into vigil/token on the card, and start the node again"
        join_once && break
        status=$?
        [ "$status" -eq 69 ] ||
            fail enrolment "$(last_words)" "put a new token of \`vigil enrol $(fact NODE)\` into vigil/token on the card, and start the node again"
        [ -n "$told" ] || say "the authority at $(fact AUTHORITY) does not answer: it is asked again and again"
        told=1
        [ "$tries" -gt 0 ] && [ "$count" -ge "$tries" ] &&
            fail enrolment "the authority at $(fact AUTHORITY) does not answer" "start \`vigil ca serve\` there, or bring this node into its network"
        count=$((count + 1))
        sleep "$wait_s"
        wait_s=$(longer "$wait_s")
    done
    say "enrolled as $(fact NODE)"
}

# They are used, and everybody on the node can read the card. What is below its own memory management is out of reach.
erase_secrets() {
    local file
    for file in "$card/token" "$card/vigil.yaml"; do
        [ -e "$file" ] || continue
        head -c "$(wc -c <"$file")" /dev/zero | dd of="$file" conv=notrunc,fsync 2>/dev/null
        rm -f "$file"
    done
    sync
}

start_service() {
    # With --root, its paths are those that the other system will see.
    logged "$home/launch" --config /etc/vigil/vigil.yaml --state /var/lib/vigil \
        service install --role node ${root:+--root "$root"} --now ||
        fail service "$(last_words)" "look into journalctl -u vigil-node"
    say "the service vigil-node runs"
}

step() { # NAME FUNCTION: once, also over several boots
    is_done "$1" && return
    "$2"
    mark_done "$1"
}

run_all() {
    mkdir -p "$state" "$(dirname "$output")"
    [ ! -e "$state/done.all" ] || exit 0
    exec 9>"$state/lock"
    flock -n 9 || exit 0 # another one is at it
    say "first boot of node $(fact NODE)"
    set_clock
    step bundle unpack
    step packages install_packages
    step user make_user
    step install install_vigil
    step settings write_settings
    step enrolment join_site
    step secrets erase_secrets
    step service start_service
    rm -rf "$state/bundle"
    mark_done all
    logged systemctl disable "$unit"
    say "DONE: $(fact NODE) is a node of its site; \`vigil node list\` shows it"
}

case $command in
    install) install_unit ;;
    run) find_card; run_all ;;
esac
