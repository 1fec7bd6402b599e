#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/base/durable_file.h"
#include "engine/schedule/schedule.h"

namespace kascade {
namespace {

absl::Status in_file(const std::filesystem::path& file, const absl::Status& status) {
  return {status.code(), absl::StrCat(file.string(), ": ", status.message())};
}

}  // namespace

absl::StatusOr<Schedule> load_schedule(const std::filesystem::path& file) {
  std::error_code error;
  const auto type = std::filesystem::status(file, error).type();
  if (type == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat("no schedule file ", file.string()));
  }
  if (type != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": not a readable file"));
  }
  std::ifstream in(file, std::ios::binary);
  std::string bytes(kMaxScheduleBytes + 1, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!in.is_open() || in.bad()) return file_error("read", file);
  bytes.resize(static_cast<size_t>(in.gcount()));
  auto schedule = parse_schedule(bytes);
  if (!schedule.ok()) return in_file(file, schedule.status());
  return schedule;
}

absl::Status save_schedule(const Schedule& schedule, const std::filesystem::path& file) {
  const std::string bytes = to_json(schedule);
  if (auto read_back = parse_schedule(bytes); !read_back.ok()) {
    return in_file(file, read_back.status());
  }
  return write_durably(bytes, file);
}

}  // namespace kascade
