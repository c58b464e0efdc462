#!/bin/sh
# The first process of a machine that the power is taken from again and again: it says what the last loss left, then works
# on and says what it was told. The host reads all of it on the serial line, and holds it together.
export PATH=/bin LC_ALL=C SEEDCACHE_SERVER=unix:///run/s.sock
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
for module in $(cat /modules/order); do insmod "/modules/$module"; done
ifconfig lo up
mount -t "$(cat /fs)" /dev/vda /disk || { echo "FAILED mount"; poweroff -f; }

tell() { echo "HOST $*"; }

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
        [ $n -lt 300 ] || { tail -n 20 /run/log; tell failed the daemon does not start; poweroff -f; }
        sleep 0.1
    done
}

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
        answer=$(seedcache seed app "$target" -o json 2>&1) || tell failed "seed $target: $answer"
        tell seeded "$(echo "$answer" | tr -d '\n')" -- "$(digest "$target")"
    done
fi
tell checked

httpd -p 127.0.0.1:8000 -h /origin
n=$(cat /disk/next 2>/dev/null || echo 1)
while :; do
    echo "/releases/v$n" >/origin/latest.new
    mv /origin/latest.new /origin/latest
    tell unpinning
    seedcache unpin app >/dev/null 2>&1 && tell unpinned
    seedcache refresh app --wait >/run/refresh 2>&1 && [ -d "/disk/.seedcache/versions/app/v$n" ] && tell version "v$n"
    seedcache seed app "/disk/pods/$((n % 3))" >/dev/null 2>&1
    tell pinning "v$n"
    seedcache pin app "v$n" >/dev/null 2>&1 && tell pinned "v$n"
    n=$((n % $(cat /versions) + 1))
    echo $n >/disk/next
done
