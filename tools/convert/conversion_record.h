// conversion.json records the source of a converted folder and the digests of its files at the time
// they were written.
#ifndef KASCADE_TOOLS_CONVERT_CONVERSION_RECORD_H_
#define KASCADE_TOOLS_CONVERT_CONVERSION_RECORD_H_

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/convert/source.h"

namespace kascade::convert {

inline constexpr char kRecordFile[] = "conversion.json";

class ConversionRecord {
 public:
  // Starts a record. Reads the source's files once to compute their digests.
  static absl::StatusOr<ConversionRecord> begin(const Source& source,
                                                const std::filesystem::path& source_path);
  void add_output(const std::string& file, const std::string& sha256);
  std::string json() const;

 private:
  nlohmann::ordered_json json_;
};

// Returns the SHA-256 of each weight file that `folder`/conversion.json records, by file name;
// empty if there is no such file.
absl::StatusOr<std::map<std::string, std::string>> recorded_outputs(
    const std::filesystem::path& folder);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_CONVERSION_RECORD_H_
