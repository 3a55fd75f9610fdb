# virt-unlock: everything one does here. `make` alone lists it.

PREFIX  ?= /usr
DESTDIR ?=
CARGO   ?= cargo
CASES   ?= 100000

target  := $(or $(CARGO_TARGET_DIR),target)
release := $(target)/release
stage   := target/stage

bin     = $(DESTDIR)$(PREFIX)/bin
libexec = $(DESTDIR)$(PREFIX)/libexec/virt-unlock
units   = $(DESTDIR)$(PREFIX)/lib/systemd/system
dracut  = $(DESTDIR)$(PREFIX)/lib/dracut/modules.d/70virt-unlock
catalog = $(DESTDIR)$(PREFIX)/lib/systemd/catalog
doc     = $(DESTDIR)$(PREFIX)/share/doc/virt-unlock
share   = $(DESTDIR)$(PREFIX)/share
etc     = $(DESTDIR)/etc/virt-unlock
hooks   = $(DESTDIR)/etc/libvirt/hooks/qemu.d
restart = $(DESTDIR)/etc/needrestart/conf.d

programs      := $(release)/virt-unlock $(release)/virt-unlock-volumes
unit_files    := units/virt-unlock.service units/virt-unlock-guests.service units/virt-unlock@.service
dracut_files  := $(wildcard dracut/70virt-unlock/*)
hook          := units/libvirt-hook.sh
needrestart   := units/needrestart.conf
catalogue     := units/virt-unlock.catalog
documentation := README.md LICENSE config.example.toml
# What the program writes of itself, below share.
pages         := man8/virt-unlock.8 man8/virt-unlock.service.8 man8/virt-unlock-guests.service.8 man8/virt-unlock@.service.8 \
                 man5/virt-unlock.toml.5 man7/virt-unlock-migration.7
completions   := bash-completion/completions/virt-unlock zsh/vendor-completions/_virt-unlock \
                 fish/vendor_completions.d/virt-unlock.fish
generated     := $(addprefix man/,$(pages)) $(completions)
made          := $(release)/share/.made

# journalctl reads the compiled ones. Not for a DESTDIR: a package's host does it when it gets the package.
compile_catalogues = $(if $(DESTDIR),,if command -v journalctl >/dev/null; then journalctl --update-catalog; fi)

.PHONY: help demo bench build install uninstall deb rpm test test-hosts test-quick fuzz lint stage clean

help:
	@echo "make demo        boot a host with two encrypted guests in this terminal, to be unlocked by you"
	@echo "                 (ANSWER='correct horse': types by itself, and exits 0 only if all of it held)"
	@echo "make bench       boot a host with 4 and with 16 encrypted guests, by crypttab and by virt-unlock, and compare (long)"
	@echo "make build       compile the programs (release); they write their man pages and completions"
	@echo "make install     put what was built in place; runs no compiler (DESTDIR=$(DESTDIR) PREFIX=$(PREFIX))"
	@echo "make uninstall   remove it again; the configuration stays"
	@echo "make deb         pack what was built for Debian, below target/packages"
	@echo "make rpm         the same for hosts with rpm"
	@echo "make test        every check, the booted hosts too (minutes; installs the Debian packages it needs)"
	@echo "make test-hosts  the tests on booted hosts, on each: Debian 13, Debian 12, modular daemons of libvirt"
	@echo "make test-quick  every check without a boot"
	@echo "make fuzz        what comes in from outside, changed at random, again and again (CASES=$(CASES))"
	@echo "make lint        formatting and clippy alone"
	@echo "make clean       remove what was compiled and installed below target; the image of the host stays"

build:
	tests/setup.sh build
	$(CARGO) build --locked --release
	$(MAKE) --no-print-directory $(made)

# Whoever installs is often root, who should not compile.
$(programs):
	@echo "$@ is not there. Run 'make build' first, as yourself; then 'make install', as root." >&2; exit 1

$(made): $(release)/virt-unlock
	rm -rf $(@D)
	$(release)/virt-unlock generate man $(@D)/man
	$(release)/virt-unlock generate completions $(@D)
	touch $@

install: $(programs) $(made) $(unit_files) $(dracut_files) $(hook) $(needrestart) $(catalogue) $(documentation)
	install -d $(bin) $(libexec) $(hooks) $(restart) $(units) $(catalog) $(dracut) $(doc) $(etc) $(sort $(dir $(addprefix $(share)/,$(generated))))
	install -m 755 $(release)/virt-unlock $(bin)
	install -m 755 $(release)/virt-unlock-volumes $(libexec)
	install -m 644 $(documentation) $(doc)
	install -m 644 $(catalogue) $(catalog)
	install -m 644 $(needrestart) $(restart)/virt-unlock.conf
	put() { sed 's|/usr/bin/virt-unlock|$(PREFIX)/bin/virt-unlock|g; s|/usr/libexec/virt-unlock|$(PREFIX)/libexec/virt-unlock|g' $$1 \
	    >$$2/$${1##*/} && chmod $$3 $$2/$${1##*/}; }; \
	for unit in $(unit_files); do put $$unit $(units) 644 || exit 1; done; \
	for file in $(dracut_files); do put $$file $(dracut) 644 || exit 1; done
	chmod 755 $(dracut)/module-setup.sh
	sed 's|/usr/bin/virt-unlock|$(PREFIX)/bin/virt-unlock|g' $(hook) >$(hooks)/virt-unlock && chmod 755 $(hooks)/virt-unlock
	for file in $(generated); do \
	    sed 's|/usr/lib|$(PREFIX)/lib|g' $(dir $(made))$$file >$(share)/$$file && chmod 644 $(share)/$$file || exit 1; \
	done
	$(compile_catalogues)

# Refused, as the packages' removal is, while guests need it for their way down.
uninstall:
	$(if $(DESTDIR),,sh packaging/removal-guard.sh)
	rm -f $(bin)/virt-unlock $(hooks)/virt-unlock $(restart)/virt-unlock.conf $(addprefix $(units)/,$(notdir $(unit_files))) $(catalog)/$(notdir $(catalogue)) $(addprefix $(share)/,$(generated))
	rm -rf $(libexec) $(dracut) $(doc)
	[ ! -d $(etc) ] || rmdir --ignore-fail-on-non-empty $(etc)
	$(compile_catalogues)

# What the booted hosts get.
stage: build
	rm -rf $(stage)
	$(MAKE) --no-print-directory install DESTDIR=$(stage) PREFIX=/usr

deb: build
	tests/setup.sh deb
	packaging/build.sh deb

rpm: build
	tests/setup.sh rpm
	packaging/build.sh rpm

demo:
	tests/setup.sh build boot
	$(MAKE) --no-print-directory stage
	tests/host/cargo-test.sh --quiet --test demo

bench:
	tests/setup.sh build boot
	$(MAKE) --no-print-directory stage
	tests/host/cargo-test.sh --quiet --test bench

test:
	tests/setup.sh build test boot packages
	tests/suite.sh lint quick licences stage packages boot

test-hosts:
	tests/setup.sh build test boot packages
	tests/suite.sh stage boot hosts

test-quick:
	tests/setup.sh build test
	tests/suite.sh lint quick

# What it finds stays in tests/fuzz/corpus, and every later test looks at it.
fuzz:
	tests/setup.sh build test
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked --test fuzz
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked --test config robust
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked --lib -- whatever never_panic

lint:
	tests/setup.sh build
	tests/suite.sh lint

# Not `cargo clean`: the image of the host takes minutes to make, and lies below target too.
clean:
	rm -rf $(target)/debug $(target)/release $(stage) target/packages
