#include "client/eval/report_files.h"

#include <fmt/format.h>

#include <system_error>

#include "client/commands/files.h"

namespace kascade::client {

absl::Status make_report_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      fmt::format("{}: cannot be made: {}", folder.string(), error.message()));
}

absl::Status write_report(const std::filesystem::path& folder,
                          const std::vector<ReportFile>& files) {
  for (const ReportFile& file : files) {
    auto out = ResultFile::open((folder / file.name).string());
    if (!out.ok()) return out.status();
    if (auto status = out->commit(file.content); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kascade::client
