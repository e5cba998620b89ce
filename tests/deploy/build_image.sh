#!/usr/bin/env bash
# Builds the Dockerfile without a Docker engine and without rights, over a bootstrapped Debian: as root it makes the
# base system, the build itself is another user's. Prints nothing on success. Needs debootstrap, buildah and uidmap.
#   build_image.sh SOURCE USER    → image localhost/mosso of USER's storage
set -euo pipefail
source=$1 user=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mirror=$(cat /etc/apt/sources.list.d/* /etc/apt/sources.list 2>/dev/null |
  sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' | head -n 1 || true)
release=$(. /etc/os-release && echo "$VERSION_CODENAME")

# The base gets what this machine reaches its packages with.
debootstrap --variant=minbase --include=ca-certificates "$release" "$work/base" "$mirror" > "$work/log" || { cat "$work/log"; exit 1; }
rm -f "$work/base/etc/apt/sources.list"
cp -r /etc/apt/sources.list* "$work/base/etc/apt/"
grep -rLE "$mirror" "$work/base/etc/apt/sources.list.d" | xargs -r rm # of others' packages it has no keys
cp /etc/apt/apt.conf.d/99* "$work/base/etc/apt/apt.conf.d/" 2>/dev/null || true
cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
  [ ! -f "$file" ] || cp "$file" "$work/base/etc/pip.conf"
done
tar -C "$work/base" -cf "$work/base.tar" .

git clone -q "$source" "$work/source"
wheels=${PIP_FIND_LINKS:-}
chown -R "$user" "$work/source"
chmod a+rx "$work" && chmod a+r "$work/base.tar"
runuser -u "$user" -- bash -c "
  set -e
  export HOME=\$(getent passwd $user | cut -d: -f6) XDG_RUNTIME_DIR=$work/source/.run STORAGE_DRIVER=vfs
  mkdir -p \$XDG_RUNTIME_DIR
  cd $work/source
  base=\$(buildah from scratch)
  buildah add -q \$base $work/base.tar / > /dev/null
  buildah config --env PIP_FIND_LINKS='$wheels' --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt \$base
  buildah commit -q --rm \$base localhost/base > /dev/null
  buildah bud --format docker --isolation chroot --network host ${wheels:+--volume $wheels:$wheels:ro} \
    --build-arg BASE=localhost/base -t localhost/mosso . > log 2>&1 || { tail -n 40 log; exit 1; }
"
