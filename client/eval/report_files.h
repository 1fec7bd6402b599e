// The files of a report.
#ifndef KASCADE_CLIENT_EVAL_REPORT_FILES_H_
#define KASCADE_CLIENT_EVAL_REPORT_FILES_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace kascade::client {

struct ReportFile {
  std::string name{};
  std::string content{};
};

// Makes the folder, with those above it, unless it is there.
absl::Status make_report_folder(const std::filesystem::path& folder);

// Writes the files into the folder. Each appears whole or not at all.
absl::Status write_report(const std::filesystem::path& folder,
                          const std::vector<ReportFile>& files);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_REPORT_FILES_H_
