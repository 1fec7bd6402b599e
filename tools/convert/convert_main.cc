// kascade-convert: turns a checkpoint of Meta, Hugging Face, llama2.c or GGUF into a folder that
// kascade-server loads, checks such folders, and measures what weight formats cost them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tools/convert/adapter_command.h"
#include "tools/convert/adapter_import.h"
#include "tools/convert/block_storage.h"
#include "tools/convert/convert.h"
#include "tools/convert/destination.h"
#include "tools/convert/pack_command.h"
#include "tools/convert/report_command.h"
#include "tools/convert/source.h"
#include "tools/convert/verify.h"
#include "tools/options/number_option.h"
#include "tools/terminal/print.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/standard_streams.h"
#include "tools/version/version.h"

namespace kascade::convert {
namespace {

constexpr char kProgram[] = "kascade-convert";
constexpr int kInterrupted = 130;
constexpr int kUsage = 2;

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

struct Arguments {
  std::string source{};
  std::string destination{};
  std::string verify{};
  std::string adapter_of{};  // the folder of an adapter's model; empty: SOURCE is a checkpoint
  std::string dtype = "keep";
  ConvertOptions convert{};
  SourceOptions source_options{};
  ReportArguments report{};
  PackArguments pack{};
};

std::string window_text(const ModelConfig& config) {
  if (!config.sliding_window) return "";
  return fmt::format(", sliding window {}", *config.sliding_window);
}

std::string scaling_text(const ModelConfig& config) {
  if (!config.rope_scaling) return "";
  return fmt::format(", {} factor {:g}", name_of(*config.rope_scaling),
                     factor_of(*config.rope_scaling));
}

void print_config(const ModelConfig& config) {
  fmt::print("  {}: {} layers, hidden {}, {} query and {} KV heads of {}, MLP {}, vocabulary {}\n",
             config.model_type, config.layers, config.hidden, config.heads, config.kv_heads,
             config.head_dim, config.intermediate, config.vocab);
  fmt::print("  context {}{}, rope theta {:g}{}, {} head\n", config.context, window_text(config),
             config.rope_theta, scaling_text(config), config.tied_head ? "tied" : "untied");
  const auto parameters = static_cast<double>(config.parameters());
  const double kv_values = 2.0 * config.layers * config.kv_dim();
  fmt::print(
      "  {} parameters; the server needs about {} in bf16 ({} in f32), and for each token of "
      "KV cache {} ({})\n",
      client::with_commas(config.parameters()), client::bytes(parameters * 2),
      client::bytes(parameters * 4), client::bytes(kv_values * 2), client::bytes(kv_values * 4));
}

int fail(const absl::Status& status) {
  fmt::print(stderr, "{}: {}\n", kProgram, std::string(status.message()));
  return absl::IsCancelled(status) ? kInterrupted : 1;
}

int fail_usage(const std::string& message) {
  fmt::print(stderr, "{}: {} (see --help)\n", kProgram, message);
  return kUsage;
}

void print_storage(const Source& source, const ConvertOptions& options) {
  const auto storage = block_storage(source, options);
  if (!storage) return;
  if (options.dtype) {
    fmt::print(
        "  dequantises blocks of {:.2f} bits per weight: {} of {} instead of {}; without --dtype "
        "they are kept and served as they are\n",
        storage->bits_per_weight, client::bytes(static_cast<double>(storage->output_bytes)),
        std::string(name_of(*options.dtype)),
        client::bytes(static_cast<double>(storage->source_bytes)));
    return;
  }
  // "Q4_1 210 matrices, Q8_0 1": the noun once.
  std::vector<std::string> counts;
  for (const auto& [dtype, matrices] : storage->matrices) {
    counts.push_back(fmt::format("{} {}{}", std::string(name_of(dtype)), matrices,
                                 counts.empty() ? (matrices == 1 ? " matrix" : " matrices") : ""));
  }
  fmt::print("  keeps blocks: {}; {:.2f} bits per weight, so that the server needs about {}\n",
             fmt::join(counts, ", "), storage->bits_per_weight,
             client::bytes(static_cast<double>(storage->output_bytes)));
}

int run_convert(const Arguments& arguments) {
  auto source = open_source(arguments.source, arguments.source_options);
  if (!source.ok()) return fail(source.status());
  fmt::print("{}: {}\n", arguments.source, (*source)->family());
  print_config((*source)->config());
  for (const std::string& decision : (*source)->decisions()) fmt::print("  {}\n", decision);
  print_storage(**source, arguments.convert);
  std::fflush(stdout);

  client::ProgressDisplay display;
  const auto status = convert(
      **source, arguments.source, arguments.destination, arguments.convert,
      [&](const ConvertProgress& progress) {
        display.show(
            {.stage = "converting", .done = progress.bytes_done, .total = progress.bytes_total});
      });
  display.finish();
  if (!status.ok()) return fail(status);
  const auto side_files = (*source)->side_files();
  if (std::none_of(side_files.begin(), side_files.end(), [](const SideFile& file) {
        return file.name == "tokenizer.json" || file.name == "tokenizer.model";
      })) {
    fmt::print(stderr,
               "kascade-convert: no tokenizer found; put a tokenizer.json or "
               "tokenizer.model into {} before it is served\n",
               arguments.destination);
  }
  fmt::print("wrote {}\n", arguments.destination);
  return 0;
}

int run_verify(const std::string& folder) {
  const auto result = verify(folder);
  if (!result.ok()) return fail(result.status());
  client::Table table({{"tensor", client::Table::Align::kLeft},
                       {"dtype", client::Table::Align::kLeft},
                       {"shape"},
                       {"min"},
                       {"max"},
                       {"rms"},
                       {"not finite"}});
  for (const TensorSummary& tensor : result->tensors) {
    table.add({tensor.name, tensor.dtype, fmt::format("{}", fmt::join(tensor.shape, " x ")),
               fmt::format("{:.4g}", tensor.min), fmt::format("{:.4g}", tensor.max),
               fmt::format("{:.4g}", tensor.rms), fmt::format("{}", tensor.not_finite)});
  }
  fmt::print("{}", table.text());
  print_config(result->config);
  fmt::print("  {}, {}; digests checked: {}; tokenizer: {}\n",
             client::counted(static_cast<int64_t>(result->tensors.size()), "tensor"),
             client::bytes(static_cast<double>(result->weight_bytes)),
             client::counted(result->digests_checked, "file"),
             result->tokenizer_ids > 0 ? client::counted(result->tokenizer_ids, "id") : "none");
  if (result->not_finite == 0) return 0;
  return fail(
      absl::DataLossError(fmt::format("{}: {} values are not finite", folder, result->not_finite)));
}

void add_options(CLI::App& app, Arguments& arguments) {
  app.add_option("SOURCE", arguments.source,
                 "folder of Meta or Hugging Face, or a GGUF or llama2.c file");
  app.add_option("DEST", arguments.destination, "folder to make [SOURCE-kascade]");
  app.add_option("--adapter-of", arguments.adapter_of,
                 "SOURCE is a folder with sparse_adapters.pt, trained on the model of this folder: "
                 "make an adapter of it");
  app.add_option("--verify", arguments.verify,
                 "check this folder instead: shapes, digests, finite values");
  app.add_option("--dtype", arguments.dtype, "of the weights")
      ->check(CLI::IsMember({"keep", "f32", "bf16", "f16"}))
      ->capture_default_str();
  app.add_option("--layout", arguments.convert.layout, "shards or per-layer")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Layout>{
          {"shards", Layout::kShards}, {"per-layer", Layout::kPerLayer}}))
      ->default_str("shards");
  options::add_bytes(app, "--max-shard-size", arguments.convert.max_shard_bytes,
                     options::storage_units(), 1, INT64_MAX, "bytes, or with a unit: 2GB, 1GiB")
      ->default_str("2GB");
  options::add_number(app, "--rope-factor", arguments.source_options.rope_factor, 1, 1e6,
                      "of llama3 rope scaling, instead of what the source says");
  add_pack_options(app, arguments.pack);
  add_report_options(app, arguments.report);
  app.add_flag("--force", arguments.convert.force, "replace DEST");
  app.set_version_flag("--version", version_line());
}

void set_dtype(Arguments& arguments) {
  static const std::map<std::string, DType> kTypes = {
      {"f32", DType::kF32}, {"bf16", DType::kBF16}, {"f16", DType::kF16}};
  const auto found = kTypes.find(arguments.dtype);
  if (found != kTypes.end()) arguments.convert.dtype = found->second;
}

int run_pack(const std::string& folder, const std::vector<WeightFormat>& formats) {
  fmt::print("{}\n", folder);
  const auto status = pack_weights(folder, formats, interrupted);
  return status.ok() ? 0 : fail(status);
}

// Converts, and packs if that is asked for; with --existing only packs.
int run_convert_or_pack(Arguments& arguments) {
  std::vector<WeightFormat> formats;
  if (!arguments.pack.formats.empty()) {
    auto found = formats_to_pack(arguments.pack.formats);
    if (absl::IsInvalidArgument(found.status()))
      return fail_usage(std::string(found.status().message()));
    if (!found.ok()) return fail(found.status());
    formats = *std::move(found);
  }
  if (!arguments.pack.existing.empty()) {
    if (arguments.source.empty()) return run_pack(arguments.pack.existing, formats);
    return fail_usage("--existing DIR stands alone with --pack, without SOURCE");
  }
  if (arguments.source.empty()) {
    return fail_usage("expected SOURCE [DEST], --existing DIR, --verify DIR or --report DIR");
  }
  if (arguments.destination.empty()) {
    arguments.destination = default_destination(arguments.source).string();
  }
  set_dtype(arguments);
  arguments.convert.cancelled = &interrupted;
  if (!formats.empty()) {
    arguments.convert.add_to_folder = [formats](const std::filesystem::path& folder) {
      return pack_weights(folder, formats, interrupted);
    };
  }
  return run_convert(arguments);
}

// An adapter of the Python project: SOURCE and --adapter-of are both there, or it is wrong usage.
int run_adapter(Arguments& arguments) {
  if (arguments.source.empty()) return fail_usage("--adapter-of DIR needs SOURCE");
  if (arguments.adapter_of.empty()) {
    return fail_usage(arguments.source +
                      ": holds a sparse adapter; --adapter-of DIR names the model that it was "
                      "trained on");
  }
  if (arguments.destination.empty()) {
    arguments.destination = default_destination(arguments.source).string();
  }
  const auto status = convert_adapter(arguments.source, arguments.adapter_of, arguments.destination,
                                      arguments.convert.force);
  return status.ok() ? 0 : fail(status);
}

int run_command(Arguments& arguments) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    std::signal(signal, [](int) { interrupted.store(true); });
  }
  const bool packs = !arguments.pack.formats.empty();
  if (!arguments.report.model.empty()) {
    if (!arguments.source.empty() || !arguments.verify.empty() || packs) {
      return fail_usage("--report DIR stands alone, without SOURCE, --verify and --pack");
    }
    const auto status = run_report(arguments.report, interrupted);
    return status.ok() ? 0 : fail(status);
  }
  if (!arguments.verify.empty()) {
    if (arguments.source.empty() && !packs) return run_verify(arguments.verify);
    return fail_usage("--verify DIR stands alone, without SOURCE and --pack");
  }
  if (arguments.adapter_of.empty() && !has_torch_adapter(arguments.source)) {
    return run_convert_or_pack(arguments);
  }
  if (packs) return fail_usage("--pack is of model folders, and SOURCE is an adapter");
  return run_adapter(arguments);
}

int run(int argc, char** argv) {
  CLI::App app(
      "Checkpoints of Meta, Hugging Face, llama2.c and GGUF -> a folder for kascade-server",
      kProgram);
  Arguments arguments;
  add_options(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail_usage(error.what());
  }
  return run_command(arguments);
}

}  // namespace
}  // namespace kascade::convert

int main(int argc, char** argv) {
  using namespace kascade;
  client::open_standard_streams();
  return client::run_with_standard_output(convert::kProgram,
                                          [&] { return convert::run(argc, argv); });
}
