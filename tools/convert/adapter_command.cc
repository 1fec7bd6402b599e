#include "tools/convert/adapter_command.h"

#include <fmt/format.h>

#include "absl/strings/str_cat.h"
#include "engine/adapter/adapter_file.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "tools/convert/adapter_import.h"
#include "tools/terminal/print.h"

namespace kascade::convert {
namespace {

absl::Status check_destination(const std::filesystem::path& destination, bool force) {
  std::error_code ignored;
  if (!std::filesystem::exists(destination, ignored)) return absl::OkStatus();
  if (force && std::filesystem::exists(destination / "adapter.json", ignored)) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(
      destination.string(), ": exists",
      force ? " and holds no adapter.json, so it is not replaced" : "; --force replaces it"));
}

void print_adapter(const std::filesystem::path& source, const ImportedAdapter& imported) {
  const Adapter& adapter = imported.adapter;
  const AdapterOptions& options = adapter.options;
  fmt::print("{}: sparse adapter of {} layers, {} parameters\n", source.string(),
             adapter.shape.layers,
             client::with_commas(static_cast<int64_t>(adapter.parameters.size())));
  fmt::print("  keys {}, values {}, blocks of {} every {} tokens, window {}, {} gate\n",
             std::string(name_of(options.key_compressor)),
             std::string(name_of(options.value_compressor)), options.compress_block,
             options.compress_stride, options.window, std::string(name_of(options.gate)));
  for (const std::string& decision : imported.decisions) fmt::print("  {}\n", decision);
}

}  // namespace

absl::Status convert_adapter(const std::filesystem::path& source,
                             const std::filesystem::path& model,
                             const std::filesystem::path& destination, bool force) {
  if (auto status = check_destination(destination, force); !status.ok()) return status;
  const auto config = load_config(model);
  if (!config.ok()) return config.status();
  const auto checkpoint = open_checkpoint(model, *config);
  if (!checkpoint.ok()) return checkpoint.status();
  auto imported = import_torch_adapter(source, adapter_shape(*config));
  if (!imported.ok()) return imported.status();
  imported->adapter.weights_digest = checkpoint->weights_digest;
  if (auto status = save_adapter(imported->adapter, destination); !status.ok()) return status;
  print_adapter(source, *imported);
  fmt::print("wrote {}\n", destination.string());
  return absl::OkStatus();
}

}  // namespace kascade::convert
