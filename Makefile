# The targets a person needs; `make test` is what CI runs.

.PHONY: test demo bench fuzz deny clean-tools

test:
	tests/run.sh

demo:
	tests/demo/run.sh $(if $(REDIS),--redis,$(if $(STAY),--stay))

# Each target for SECONDS, on stable Rust.
fuzz:
	for target in check evaluate headers parse policy settle; do tests/fuzz/run.sh $$target $(or $(SECONDS),60) || exit 1; done

bench:
	cargo bench --bench check

deny:
	tests/tools/install.sh deny
	.tools/bin/cargo-deny --config .cargo/deny.toml check bans licenses sources

clean-tools:
	rm -rf .tools .demo
