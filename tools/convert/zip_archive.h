// ZIP as torch.save writes it, read in place: entries are stored, not compressed, so that each is a
// range of the (mapped) file. Safe on hostile files: every offset and size is checked, nothing is
// extracted, and memory is used for the directory alone. Check sums are not looked at.
#ifndef KASCADE_TOOLS_CONVERT_ZIP_ARCHIVE_H_
#define KASCADE_TOOLS_CONVERT_ZIP_ARCHIVE_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade::convert {

using ZipEntries = std::map<std::string, std::string_view>;  // content by name

// The entries of `archive`; their contents are views of it. `file` is what errors begin with:
// INVALID_ARGUMENT for damage (overlaps, offsets outside, names that occur twice or lead out of a
// folder …), UNIMPLEMENTED for compressed, encrypted or divided archives.
absl::StatusOr<ZipEntries> read_zip(std::string_view archive, const std::string& file);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_ZIP_ARCHIVE_H_
