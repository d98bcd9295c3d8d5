#!/bin/sh
# Builds dist/edged_VERSION_ARCH.deb: `make deb`. /opt/edged holds a virtual environment of the Python of this Debian,
# with everything that edged needs; nothing is downloaded where it is installed.
#
#   build.sh WHEEL FOLDER [OPTIONS OF PIP...]
set -eu
cd "$(dirname "$0")/.."
wheel=$1 out=$2
shift 2
python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "build.sh: $python is older than 3.11; build on Debian 12 or newer" >&2; exit 2; }
pip=${PIP:-.venv/bin/pip}
version=$(basename "$wheel" | cut -d- -f2)
arch=$(dpkg --print-architecture)
python_package=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
umask 022

"$python" -m venv --without-pip "$stage/opt/edged"
"$pip" --python "$stage/opt/edged/bin/python" install --quiet --disable-pip-version-check --no-compile \
    --no-warn-script-location -c constraints.txt "$@" "$wheel[cpu,video,mqtt,opcua,webhook]"
# What is written into scripts is where it will be, not where it was made.
rm -f "$stage"/opt/edged/bin/[Aa]ctivate* && grep -rlIF "$stage" "$stage/opt/edged/bin" "$stage/opt/edged/pyvenv.cfg" |
    xargs -r sed -i "s|$stage||g"
# Compiled here, for nobody who runs edged may write there; valid whatever times the files get.
"$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$stage" -p / "$stage/opt/edged/lib"

install -D -m 644 systemd/edged.service "$stage/usr/lib/systemd/system/edged.service"
install -D -m 644 systemd/edged.service "$stage/usr/lib/systemd/system/edged@.service"
install -D -m 644 systemd/sysusers.d/edged.conf "$stage/usr/lib/sysusers.d/edged.conf"
install -D -m 644 systemd/tmpfiles.d/edged.conf "$stage/usr/lib/tmpfiles.d/edged.conf"
install -D -m 644 systemd/edged.service.d/gpu.conf "$stage/usr/share/edged/gpu.conf"
install -D -m 644 LICENSE "$stage/usr/share/doc/edged/copyright"
install -D -m 640 configs/edged.toml "$stage/etc/edged/edged.toml"
install -d "$stage/usr/bin"
ln -s /opt/edged/bin/edged "$stage/usr/bin/edged"

install -d "$stage/DEBIAN"
echo /etc/edged/edged.toml >"$stage/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "debian/$script" "$stage/DEBIAN/$script"
done
cat >"$stage/DEBIAN/control" <<CONTROL
Package: edged
Version: $version
Architecture: $arch
Maintainer: the authors of edged <edged@localhost>
Section: science
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: $python_package, systemd
Description: anomaly detection on pictures at the edge
 Watches folders and cameras, scores what arrives with a model of good parts, and
 says which parts are odd, and where.
CONTROL
dpkg-deb --root-owner-group -Zzstd --build "$stage" "$out/edged_${version}_$arch.deb"
