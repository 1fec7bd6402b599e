// The folder that a conversion writes. It is written under a temporary name in the same parent
// folder and renamed when it is complete, so that the destination is either complete or absent.
#ifndef KASCADE_TOOLS_CONVERT_DESTINATION_H_
#define KASCADE_TOOLS_CONVERT_DESTINATION_H_

#include <cstdint>
#include <filesystem>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::convert {

// Where a source goes if nothing else is said: beside it, under its name with "-kascade"; the
// extension of a file is left out.
std::filesystem::path default_destination(const std::filesystem::path& source);

class Destination {
 public:
  // Creates the temporary folder `.NAME.partial` beside `folder`. Files left there by a conversion
  // that was killed are removed; FAILED_PRECONDITION if another conversion is still writing there.
  // ALREADY_EXISTS if `folder` exists, unless `force` is set and `folder` is empty or holds a
  // config.json; this way a mistyped path is never deleted. RESOURCE_EXHAUSTED if the disk has less
  // than `needed_bytes`.
  static absl::StatusOr<std::unique_ptr<Destination>> create(const std::filesystem::path& folder,
                                                             bool force, int64_t needed_bytes);
  // Removes the temporary folder unless commit() succeeded.
  ~Destination();
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  const std::filesystem::path& partial() const { return partial_; }
  // Flushes the files to disk and renames the temporary folder to `folder`, which replaces what was
  // there.
  absl::Status commit();

 private:
  Destination(std::filesystem::path folder, std::filesystem::path partial, int lock);

  std::filesystem::path folder_;
  std::filesystem::path partial_;
  int lock_;  // descriptor of the temporary folder, which is locked during the conversion
  bool committed_ = false;
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_DESTINATION_H_
