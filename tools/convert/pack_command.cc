#include "tools/convert/pack_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/folder_check.h"
#include "engine/model/packed_weights.h"
#include "tools/terminal/print.h"
#include "tools/terminal/progress.h"

namespace kascade::convert {
namespace {

constexpr WeightFormat kPackable[] = {WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4,
                                      WeightFormat::kNative};

absl::StatusOr<std::unique_ptr<Backend>> backend_for(WeightFormat format) {
  return open_backend({.name = "cpu", .weights = format});
}

absl::Status pack_format(const std::filesystem::path& folder, const ModelConfig& config,
                         const Checkpoint& checkpoint, WeightFormat format,
                         const std::atomic<bool>& interrupted) {
  auto backend = backend_for(format);
  if (!backend.ok()) return backend.status();
  const std::string name(name_of(format));
  client::ProgressDisplay display;
  const auto bytes =
      write_packed_weights(packed_file_of(folder, format), config, checkpoint, **backend,
                           [&](const PackProgress& progress) -> absl::Status {
                             if (interrupted.load())
                               return absl::CancelledError("interrupted while packing " + name);
                             display.show({.stage = "packing " + name,
                                           .done = progress.bytes_done,
                                           .total = progress.bytes_total});
                             return absl::OkStatus();
                           });
  display.finish();
  if (!bytes.ok()) return bytes.status();
  fmt::print("  packed {}: {} in {}\n", name, client::bytes(static_cast<double>(*bytes)),
             packed_file_of("", format).string());
  return absl::OkStatus();
}

}  // namespace

void add_pack_options(CLI::App& app, PackArguments& arguments) {
  CLI::Option* pack = app.add_option("--pack", arguments.formats,
                                     "list of bf16, int8, int4, native: pack the weights in these "
                                     "formats too, so that the server starts "
                                     "faster; into DEST/packed");
  app.add_option("--existing", arguments.existing,
                 "with --pack: pack the weights of this model folder instead of converting")
      ->needs(pack);
}

absl::StatusOr<std::vector<WeightFormat>> formats_to_pack(const std::string& list) {
  std::vector<WeightFormat> formats;
  const std::vector<std::string> names = absl::StrSplit(list, ',');
  for (const std::string& name : names) {
    const auto* const found =
        std::ranges::find_if(kPackable, [&](WeightFormat each) { return name_of(each) == name; });
    if (found == std::end(kPackable)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "pack: each format must be bf16, int8, int4 or native, found \"", name, "\""));
    }
    if (std::ranges::find(formats, *found) != formats.end()) {
      return absl::InvalidArgumentError(absl::StrCat("pack: ", name, " is named twice"));
    }
    if (const auto backend = backend_for(*found); !backend.ok()) return backend.status();
    formats.push_back(*found);
  }
  return formats;
}

absl::Status pack_weights(const std::filesystem::path& folder,
                          const std::vector<WeightFormat>& formats,
                          const std::atomic<bool>& interrupted) {
  if (auto status = check_model_folder(folder); !status.ok()) return status;
  const auto config = load_config(folder);
  if (!config.ok()) return config.status();
  const auto checkpoint = open_checkpoint(folder, *config);
  if (!checkpoint.ok()) return checkpoint.status();
  for (const WeightFormat format : formats) {
    auto status = pack_format(folder, *config, *checkpoint, format, interrupted);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kascade::convert
