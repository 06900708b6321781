# The targets a person needs; `make test` is what CI runs.

.PHONY: recipes test demo bench bench-redis bench-limitador fuzz deny clean-tools

test:
	tests/run.sh

demo:
	tests/demo/run.sh $(if $(REDIS),--redis,$(if $(STAY),--stay))

# Each target for SECONDS, on stable Rust.
fuzz:
	for target in check evaluate headers mask parse policy response settle; do tests/fuzz/run.sh $$target $(or $(SECONDS),60) || exit 1; done

bench:
	cargo bench --bench check

# Reservations in Redis beside a bare script; needs redis-server.
bench-redis:
	cargo bench --bench check -- redis

# The same work by limitador, interleaved. Builds RocksDB, which limitador cannot be built without: needs a C++ compiler and libclang,
# and half an hour.
bench-limitador:
	cd tests/bench/limitador && cargo run --release

# What Istio and Envoy Gateway make of the recipes in deploy/; CHECK=1 only compares. Needs Go, and a quarter of an hour the first time.
recipes:
	tests/tools/install.sh egctl istio-translate
	tests/recipes/translate.sh $(if $(CHECK),--check)

deny:
	tests/tools/install.sh deny
	.tools/bin/cargo-deny --config .cargo/deny.toml check bans licenses sources

clean-tools:
	rm -rf .tools .demo
