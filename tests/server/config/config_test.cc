// Tests the configuration of kascade-server: flags, environment and file, what wins, and which
// values are refused in which words.
#include "server/config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/configuration_text.h"
#include "server/reload.h"

namespace kascade::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Parsed {
  ParsedConfiguration result{};
  std::string errors{};
};

Parsed parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "kascade-server");
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  ::testing::internal::CaptureStderr();
  Parsed parsed{.result = parse_configuration(static_cast<int>(pointers.size()), pointers.data())};
  parsed.errors = ::testing::internal::GetCapturedStderr();
  return parsed;
}

Configuration accepted(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--model", "m"});
  Parsed parsed = parse(std::move(arguments));
  EXPECT_TRUE(parsed.result.configuration.has_value()) << parsed.errors;
  return std::move(parsed.result.configuration).value_or(Configuration{});
}

std::string refused(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--model", "m"});
  const Parsed parsed = parse(std::move(arguments));
  EXPECT_FALSE(parsed.result.configuration.has_value());
  EXPECT_EQ(parsed.result.exit_code, 2) << parsed.errors;
  return parsed.errors;
}

// A variable of the environment while it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

std::string config_file(const std::string& text, const std::string& name = "kascade-server.toml") {
  const auto path = std::filesystem::path(::testing::TempDir()) / name;
  std::ofstream(path) << text;
  return path.string();
}

TEST(Configuration, Defaults) {
  const Configuration configuration = accepted({});
  const ServerOptions& server = configuration.server;
  EXPECT_EQ(server.engine.model_directory, "m");
  EXPECT_EQ(server.listen, "127.0.0.1:50051");
  EXPECT_EQ(server.metrics_listen, "127.0.0.1:9464");
  EXPECT_EQ(server.engine.max_batch_tokens, 512);
  EXPECT_EQ(server.engine.kv_memory_bytes, 0);
  EXPECT_EQ(configuration.drain_delay_seconds, 0);
  EXPECT_EQ(configuration.drain_seconds, 30);
}

TEST(Configuration, ReadsEveryNumber) {
  const Configuration configuration =
      accepted({"--threads", "3", "--max-batch-tokens", "1000", "--max-step-ms", "50",
                "--max-sequences", "64", "--max-queue", "9", "--max-message-bytes", "65536",
                "--drain-delay-seconds", "2.5", "--drain-seconds", "0.5", "--kv-memory", "64MiB"});
  const EngineOptions& engine = configuration.server.engine;
  EXPECT_EQ(engine.threads, 3);
  EXPECT_EQ(engine.max_batch_tokens, 1000);
  EXPECT_EQ(engine.max_step_ms, 50);
  EXPECT_EQ(engine.max_sequences, 64);
  EXPECT_EQ(engine.max_queue, 9);
  EXPECT_EQ(configuration.server.max_message_bytes, 65536);
  EXPECT_EQ(configuration.drain_delay_seconds, 2.5);
  EXPECT_EQ(configuration.drain_seconds, 0.5);
  EXPECT_EQ(engine.kv_memory_bytes, 64 << 20);
  for (const char* spelling : {"67108864", "64 mib", "65536kib", "64MIB"}) {
    EXPECT_EQ(accepted({"--kv-memory", spelling}).server.engine.kv_memory_bytes, 64 << 20);
  }
}

TEST(Configuration, Connections) {
  const ConnectionOptions defaults = accepted({}).server.connections;
  EXPECT_EQ(defaults.max_connections, 0);
  EXPECT_EQ(defaults.max_per_peer, -1);
  EXPECT_EQ(defaults.max_streams, 256);
  EXPECT_EQ(defaults.max_idle_seconds, 3600);
  EXPECT_EQ(defaults.max_age_seconds, 0);
  const ServerOptions server =
      accepted({"--max-connections", "9", "--max-connections-per-peer", "3",
                "--max-streams-per-connection", "7", "--max-connection-idle-seconds", "5",
                "--max-connection-age-seconds", "6", "--stall-seconds", "8"})
          .server;
  EXPECT_EQ(server.connections.max_connections, 9);
  EXPECT_EQ(server.connections.max_per_peer, 3);
  EXPECT_EQ(server.connections.max_streams, 7);
  EXPECT_EQ(server.connections.max_idle_seconds, 5);
  EXPECT_EQ(server.connections.max_age_seconds, 6);
  EXPECT_EQ(server.stall_seconds, 8);
  EXPECT_THAT(refused({"--max-connections-per-peer", "-2"}), HasSubstr("from -1 to 1048576"));
  EXPECT_THAT(refused({"--max-streams-per-connection", "0"}), HasSubstr("from 1 to 1048576"));
}

TEST(Configuration, NoNumberWrapsOrSaturates) {
  const std::vector<std::string> whole = {
      "--threads",   "--max-batch-tokens", "--max-step-ms",      "--max-sequences",
      "--max-queue", "--kv-memory",        "--max-message-bytes"};
  const std::vector<std::string> bad = {"-1",
                                        "1.5",
                                        "1e309",
                                        "nan",
                                        "inf",
                                        "18446744073709551616",
                                        "12x",
                                        "0x10",
                                        "1e3",
                                        "1,000",
                                        "9223372036854775808",
                                        "--5",
                                        "+-5"};
  for (const std::string& flag : whole) {
    for (const std::string& value : bad) {
      EXPECT_THAT(refused({flag + "=" + value}),
                  AllOf(HasSubstr(flag + ": expected"), HasSubstr("found \"" + value + "\""),
                        Not(HasSubstr("0000000000000000000000"))))
          << value;
    }
  }
  for (const char* value : {"-1", "nan", "inf", "-inf", "1e309", "86401", "x", "1.5s"}) {
    EXPECT_THAT(refused({absl::StrCat("--drain-seconds=", value)}),
                HasSubstr("--drain-seconds: expected a number from 0 to 86400"));
  }
  EXPECT_THAT(refused({"--threads", ""}), HasSubstr("--threads"));
  EXPECT_THAT(refused({"--threads="}), HasSubstr("--threads"));
  for (const char* value : {"1.5GiB", "16GB", "9007199254740992GiB", "-1MiB", "MiB", "1 2"}) {
    EXPECT_THAT(refused({"--kv-memory", value}), HasSubstr("--kv-memory: expected bytes, or a"));
  }
}

TEST(Configuration, RangesAreNamed) {
  EXPECT_THAT(refused({"--threads", "1025"}), HasSubstr("a whole number from 0 to 1024"));
  EXPECT_THAT(refused({"--max-sequences", "0"}), HasSubstr("from 1 to 4096"));
  EXPECT_THAT(refused({"--max-queue", "1048577"}), HasSubstr("from 1 to 1048576"));
  EXPECT_THAT(refused({"--max-message-bytes", "2147483648"}),
              HasSubstr("from 65536 to 2147483647"));
  EXPECT_THAT(refused({"--max-batch-tokens", "300", "--max-sequences", "64"}),
              HasSubstr("--max-batch-tokens: expected at least --max-sequences + 256, 320"));
}

TEST(Configuration, AddressesAreCheckedAtOnce) {
  for (const char* address : {"0", "localhost", ":1", "127.0.0.1:65536", "::1:5"}) {
    EXPECT_THAT(refused({"--listen", address}),
                AllOf(HasSubstr("--listen: expected HOST:PORT"), HasSubstr("0 to 65535")));
    EXPECT_THAT(refused({"--metrics-listen", address}),
                HasSubstr("--metrics-listen: expected HOST:PORT"));
  }
  EXPECT_THAT(refused({"--metrics-listen", "unix:/tmp/x"}), HasSubstr("not served here"));
  EXPECT_THAT(refused({"--listen", ""}), HasSubstr("HOST:PORT"));
  EXPECT_EQ(accepted({"--metrics-listen", ""}).server.metrics_listen, "");
  EXPECT_EQ(accepted({"--listen", "unix:/tmp/x"}).server.listen, "unix:/tmp/x");
  EXPECT_EQ(accepted({"--metrics-listen", "[::1]:0"}).server.metrics_listen, "[::1]:0");
}

TEST(Configuration, AFlagWinsOverTheFileAndTheFileOverTheEnvironment) {
  const Variable queue("KASCADE_SERVER_MAX_QUEUE", "7");
  const Variable listen("KASCADE_SERVER_LISTEN", "127.0.0.1:7");
  EXPECT_EQ(accepted({}).server.engine.max_queue, 7);
  EXPECT_EQ(accepted({}).server.listen, "127.0.0.1:7");
  const std::string file = config_file("max-queue=8\nlisten=\"127.0.0.1:8\"\n");
  EXPECT_EQ(accepted({"--config", file}).server.engine.max_queue, 8);
  EXPECT_EQ(accepted({"--config", file}).server.listen, "127.0.0.1:8");
  EXPECT_EQ(accepted({"--config", file, "--max-queue", "9"}).server.engine.max_queue, 9);
}

TEST(Configuration, BadValuesAreRefusedWhereverTheyStand) {
  for (const char* value : {"nan", "-1", "99999999999"}) {
    const Variable threads("KASCADE_SERVER_THREADS", value);
    EXPECT_THAT(refused({}), HasSubstr("--threads: expected a whole number"));
  }
  {
    const Variable listen("KASCADE_SERVER_METRICS_LISTEN", "9464");
    EXPECT_THAT(refused({}), HasSubstr("--metrics-listen: expected HOST:PORT"));
  }
  for (const char* line : {"listen=\"localhost\"", "max-queue=2.5", "drain-seconds=inf"}) {
    EXPECT_THAT(refused({"--config", config_file(line)}), HasSubstr(": expected "));
  }
}

TEST(Configuration, UnknownNamesInTheFileAreRefused) {
  EXPECT_THAT(refused({"--config", config_file("max-queu=8\n")}), HasSubstr("max-queu"));
  EXPECT_THAT(refused({"--config", config_file("[server]\nmax-queue=8\n")}), HasSubstr("server"));
}

// The option of this name among those that are told.
core::ConfiguredOption told(const Configuration& configuration, const std::string& name) {
  for (const core::ConfiguredOption& option : configuration.server.configured_options) {
    if (option.name == name) return option;
  }
  ADD_FAILURE() << "no option " << name;
  return {};
}

TEST(Configuration, AYamlFileIsReadLikeTheOtherForm) {
  const std::string file = config_file(
      "# comment\nmax-queue: 8\nlisten: \"127.0.0.1:8\"\nmetrics-listen: ''\npin-threads: true\n"
      "kv-memory: 64MiB\nint4-keys: off\nmax-wait-seconds: 0.5\n",
      "kascade-server.yaml");
  const Configuration configuration = accepted({"--config", file, "--max-queue", "9"});
  EXPECT_EQ(configuration.server.engine.max_queue, 9);
  EXPECT_EQ(configuration.server.listen, "127.0.0.1:8");
  EXPECT_EQ(configuration.server.metrics_listen, "");
  EXPECT_TRUE(configuration.server.engine.pin_threads);
  EXPECT_EQ(configuration.server.engine.kv_memory_bytes, 64 << 20);
  EXPECT_FALSE(configuration.server.engine.int4_keys);
  EXPECT_EQ(configuration.server.engine.max_wait_seconds, 0.5);
  const Variable variable("KASCADE_SERVER_CONFIG", file.c_str());
  EXPECT_EQ(accepted({}).server.engine.max_queue, 8);
}

TEST(Configuration, EachValueHasItsSource) {
  const Variable threads("KASCADE_SERVER_THREADS", "3");
  const Variable queue("KASCADE_SERVER_MAX_QUEUE", "7");
  const std::string file =
      config_file("max-queue: 8\n\nlog-level: debug\nint4-keys: off\n", "kascade-server.yaml");
  const Configuration configuration = accepted({"--config", file, "--log-level", "warn"});
  const auto expect = [&](const std::string& name, const std::string& value,
                          const std::string& source) {
    EXPECT_EQ(told(configuration, name).value, value) << name;
    EXPECT_EQ(told(configuration, name).source, source) << name;
  };
  expect("model", "m", "flag");
  expect("log-level", "warn", "flag");
  expect("max-queue", "8", file + ":1");
  expect("int4-keys", "off", file + ":4");
  expect("threads", "3", "environment KASCADE_SERVER_THREADS");
  expect("max-wait-seconds", "-1", "default");
  expect("pin-threads", "false", "default");
  expect("schedule", "", "default");
  EXPECT_TRUE(told(configuration, "max-queue").reloadable);
  EXPECT_FALSE(told(configuration, "threads").reloadable);
  const std::string toml = config_file("# comment\nthreads = 5  # all\n");
  const Configuration other = accepted({"--config", toml});
  EXPECT_EQ(told(other, "threads").value, "5");
  EXPECT_EQ(told(other, "threads").source, toml + ":2");
}

TEST(Configuration, AWrongValueIsToldWithItsPlace) {
  const std::string yaml = config_file("model: x\nmax-queue: 0\n", "kascade-server.yaml");
  EXPECT_THAT(refused({"--config", yaml}),
              HasSubstr(yaml + ":2: --max-queue: expected a whole number from 1 to 1048576, found "
                               "\"0\""));
  const std::string toml = config_file("weights=\"fp8\"\n");
  EXPECT_THAT(refused({"--config", toml}),
              AllOf(HasSubstr(toml + ":1: --weights: "), HasSubstr("fp8"), HasSubstr("int4")));
  const std::string together = config_file("max-batch-tokens: 300\n", "kascade-server.yaml");
  EXPECT_THAT(refused({"--config", together, "--max-sequences", "64"}),
              HasSubstr(together + ":1: --max-batch-tokens: expected at least"));
  EXPECT_THAT(refused({"--max-wait-seconds=-0.5"}),
              HasSubstr("--max-wait-seconds: expected -1 or a number from 0 to 86400, found -0.5"));
  const Variable threads("KASCADE_SERVER_THREADS", "x");
  EXPECT_THAT(refused({}), HasSubstr("environment KASCADE_SERVER_THREADS: --threads: expected"));
  EXPECT_THAT(refused({"--threads", "x"}), ::testing::StartsWith("--threads: expected"));
}

TEST(Configuration, AnUnknownNameIsToldWithTheNearestOne) {
  const std::string yaml = config_file("listen: a:1\nmax-queu: 8\n", "kascade-server.yaml");
  EXPECT_THAT(refused({"--config", yaml}),
              HasSubstr(yaml + ":2: max-queu: no such option; the nearest one is max-queue"));
  const std::string far = config_file("colour: red\n", "kascade-server.yaml");
  EXPECT_THAT(refused({"--config", far}), HasSubstr(far + ":1: colour: no such option\n"));
  for (const char* name : {"config", "help", "print-config", "version"}) {
    EXPECT_THAT(refused({"--config", config_file(absl::StrCat(name, "=x\n"))}),
                HasSubstr("no such option"));
  }
}

TEST(Configuration, WhatIsPrintedCanBeReadAgain) {
  const Configuration first =
      accepted({"--listen", "[::1]:0", "--metrics-listen", "", "--max-connections-per-peer", "-1",
                "--schedule-dir", "a \"b\" #c: 'd'", "--tokens", "1e3", "--pin-threads",
                "--kv-memory", "1 GiB", "--print-config"});
  EXPECT_EQ(first.print_format, "yaml");
  const std::string yaml = yaml_text(first.server.configured_options);
  EXPECT_THAT(yaml, AllOf(HasSubstr("\nmax-queue: 256  # default\n"), HasSubstr("\n# tls-cert: "),
                          HasSubstr("\npin-threads: true  # flag\n")));
  const Configuration second =
      accepted({"--config", config_file(yaml, "printed.yaml"), "--print-config=json"});
  EXPECT_EQ(second.print_format, "json");
  ASSERT_EQ(second.server.configured_options.size(), first.server.configured_options.size());
  for (const core::ConfiguredOption& option : first.server.configured_options) {
    EXPECT_EQ(told(second, option.name).value, option.value) << option.name;
  }
  const auto json = nlohmann::json::parse(json_text(second.server.configured_options));
  EXPECT_EQ(json.at("options").size(), first.server.configured_options.size());
  EXPECT_EQ(json.at("options").at(0).at("name"), "model");
  EXPECT_EQ(json.at("options").at(0).at("reloadable"), false);
  EXPECT_THAT(refused({"--print-config=xml"}), HasSubstr("--print-config"));
}

TEST(Configuration, LogFormatAndShadowRate) {
  EXPECT_EQ(accepted({}).log_format, "text");
  EXPECT_EQ(accepted({"--log-format", "json"}).log_format, "json");
  EXPECT_THAT(refused({"--log-format", "xml"}), HasSubstr("--log-format"));
  EXPECT_EQ(accepted({}).server.shadow_rate, 0);
  EXPECT_EQ(accepted({"--shadow-rate", "0.25"}).server.shadow_rate, 0.25);
  EXPECT_THAT(refused({"--shadow-rate", "1.5"}), HasSubstr("a number from 0 to 1"));
  EXPECT_TRUE(accepted({}).server.load_reports);
  EXPECT_FALSE(accepted({"--load-reports", "off"}).server.load_reports);
}

TEST(Reload, TakesOverWhatItCanAndNamesTheRest) {
  const auto running = accepted({"--max-queue", "8", "--threads", "2"}).server.configured_options;
  const auto read = accepted({"--max-queue", "9", "--threads", "3", "--log-level", "debug"})
                        .server.configured_options;
  const ConfigurationChange change = change_between(running, read);
  EXPECT_THAT(change.taken,
              ::testing::ElementsAre("max-queue from 8 to 9", "log-level from info to debug"));
  EXPECT_THAT(change.need_restart, ::testing::ElementsAre("threads"));
  Configuration in_force;
  in_force.server.configured_options = change.in_force;
  EXPECT_EQ(told(in_force, "max-queue").value, "9");
  EXPECT_EQ(told(in_force, "threads").value, "2");
  EXPECT_EQ(told(in_force, "log-level").source, "flag");
}

TEST(Configuration, WrongUsageIsExitCodeTwo) {
  EXPECT_EQ(parse({}).result.exit_code, 2);  // no model
  EXPECT_NE(refused({"--no-such-option"}), "");
  EXPECT_NE(refused({"--weights", "fp8"}), "");
  EXPECT_NE(refused({"--threads"}), "");
}

TEST(Configuration, TlsNeedsCertificateAndKey) {
  const auto security = accepted({"--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a",
                                  "--tokens", "t", "--allow-plaintext"})
                            .server.security;
  EXPECT_EQ(security.tls.certificate, "c");
  EXPECT_EQ(security.tls.key, "k");
  EXPECT_EQ(security.tls.client_authorities, "a");
  EXPECT_EQ(security.tokens, "t");
  EXPECT_TRUE(security.allow_plaintext);
  EXPECT_FALSE(accepted({}).server.security.tls.enabled());
  EXPECT_FALSE(accepted({}).server.security.allow_plaintext);
  EXPECT_THAT(refused({"--tls-cert", "c"}), AllOf(HasSubstr("--tls-cert"), HasSubstr("--tls-key")));
  EXPECT_THAT(refused({"--tls-key", "k"}), AllOf(HasSubstr("--tls-key"), HasSubstr("--tls-cert")));
  EXPECT_THAT(refused({"--tls-client-ca", "a"}), HasSubstr("--tls-cert"));
}

}  // namespace
}  // namespace kascade::server
