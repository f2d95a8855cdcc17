#!/usr/bin/busybox ash
# First program of the machine that compiles byte code: runs the guest's interpreter once per request, writes all answers
# to the first disk, and powers off. The last line on the console says that everything is written.
set -eu
busybox=/usr/bin/busybox
trap '"$busybox" poweroff -f' EXIT

"$busybox" mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
"$busybox" mount -t proc proc /proc
while read -r module; do
    "$busybox" insmod "/modules/$module"
done </job/modules

program=$("$busybox" cat /job/driver.py)
for request in /job/requests/*; do
    "$busybox" env -i @ENVIRONMENT@ @COMMAND@ "$program" <"$request" >>/job/answers
done
"$busybox" cat /job/answers >/dev/vda
"$busybox" sync
echo 'keyturn: byte code is written'
