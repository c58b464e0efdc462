#!/bin/sh
# The first process of a machine that the power is taken from again and again: it says what the last loss left, then works
# on and says what it was told. The host reads all of it on the second serial line, which firmware and kernel do not write
# to, and holds it together. Lines are numbered, so that none can be missed; each has left before what comes after it.
export PATH=/bin LC_ALL=C SEEDCACHE_SERVER=unix:///run/s.sock
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo

said=0
tell() {
    said=$((said + 1))
    echo "$said $*" >&3
    # Setting what is set waits until all was sent.
    stty -F /dev/ttyS1 raw -echo
}

fail() {
    tell failed "$*"
    poweroff -f
}

# All that a tree is: names, content, and where links lead.
digest() {
    (cd "$1" && { find . | sort; find . -type f | sort | xargs sha256sum; find . -type l | sort | xargs -n 1 readlink; }) |
        sha256sum | cut -c 1-64
}

serve() {
    seedcache serve --config /config --root /disk --listen 127.0.0.1:7070 --socket /run/s.sock >/run/log 2>&1 &
    n=0
    until seedcache status app >/dev/null 2>&1; do
        n=$((n + 1))
        [ $n -lt 300 ] || fail "the daemon does not start: $(tail -n 3 /run/log | tr '\n' ' ')"
        sleep 0.1
    done
}

# Whether the daemon does as the API is asked to.
ask() {
    curl -sf --unix-socket /run/s.sock -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} \
        "http://localhost/v1/artifacts/app/$2" >/dev/null
}

# Once the host says so, nothing that is written gets to the disk any more, though it is said to.
obey() {
    while read -r word <&3; do
        [ "$word" = drop ] || continue
        dmsetup suspend --nolockfs disk
        dmsetup load disk --table "0 $sectors flakey /dev/vda 0 0 3600 1 drop_writes"
        dmsetup resume disk
        echo "dropping" >&3
    done
}

for module in $(cat /modules/order); do insmod "/modules/$module" || fail "module $module"; done
ifconfig lo up
sectors=$(blockdev --getsz /dev/vda)
export DM_DISABLE_UDEV=1
dmsetup create disk --table "0 $sectors flakey /dev/vda 0 3600 0" || fail no flaky disk
# A disk with a cache is written to all the time, so that there is something in it.
if grep -qw cached /proc/cmdline; then
    echo 10 >/proc/sys/vm/dirty_writeback_centisecs
    echo 10 >/proc/sys/vm/dirty_expire_centisecs
fi
mount -t "$(cat /fs)" /dev/mapper/disk /disk || fail "mount: $(dmesg | tail -n 3 | tr '\n' ' ')"

for tree in /disk/.seedcache/versions/app/*/tree; do
    [ -d "$tree" ] && tell disk "$(basename "$(dirname "$tree")")" "$(digest "$tree")"
done
[ -L /disk/.seedcache/current/app ] && tell current "$(digest /disk/.seedcache/current/app/)"
# Without the origin first.
serve
tell state "$(seedcache status app -o json | tr -d '\n')"
if ls /disk/.seedcache/versions/app/*/tree >/dev/null 2>&1; then
    seedcache verify app >/run/verify 2>&1 || tell failed "verify: $(tr '\n' ' ' </run/verify)"
    for target in /disk/pods/*; do
        [ -d "$target" ] || continue
        answer=$(seedcache seed app "$target" -o json 2>/run/seed) || tell failed "seed $target: $(tr '\n' ' ' </run/seed)"
        tell seeded "$(echo "$answer" | tr -d '\n')" -- "$(digest "$target")"
    done
fi
tell checked

obey &
httpd -p 127.0.0.1:8000 -h /origin
n=$(cat /disk/next 2>/dev/null || echo 1)
versions=$(cat /versions)
while :; do
    echo "/releases/v$n" >/origin/latest.new
    mv /origin/latest.new /origin/latest
    tell unpinning
    seedcache unpin app >/dev/null 2>&1 && tell unpinned
    seedcache refresh app --wait >/run/refresh 2>&1 && [ -d "/disk/.seedcache/versions/app/v$n" ] && tell version "v$n"
    seedcache seed app "/disk/pods/$((n % 3))" >/dev/null 2>&1
    tell pinning "v$n"
    seedcache pin app "v$n" >/dev/null 2>&1 && tell pinned "v$n"
    tell leasing "v$n"
    ask PUT leases/job "{\"version\": \"v$n\", \"ttl\": \"24h\"}" && tell leased "v$n"
    n=$((n % versions + 1))
    # The one that comes next goes, so that there is always something to fetch.
    tell removing "v$n"
    ask DELETE "versions/v$n?force=true"
    echo $n >/disk/next
done
