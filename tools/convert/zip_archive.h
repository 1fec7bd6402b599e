// Reads ZIP archives as torch.save writes them. Entries are stored without compression, so that
// each is a range of the (memory-mapped) file. Safe on hostile files: every offset and size is
// checked, nothing is extracted, and memory is used for the directory only. Checksums are not
// verified.
#ifndef KASCADE_TOOLS_CONVERT_ZIP_ARCHIVE_H_
#define KASCADE_TOOLS_CONVERT_ZIP_ARCHIVE_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade::convert {

using ZipEntries = std::map<std::string, std::string_view>;  // content by name

// Returns the entries of `archive`; their contents are views of it. Errors start with `file`:
// INVALID_ARGUMENT for damage (overlapping entries, offsets outside the file, names that occur
// twice or lead out of the folder …), UNIMPLEMENTED for compressed, encrypted or split archives.
absl::StatusOr<ZipEntries> read_zip(std::string_view archive, const std::string& file);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_ZIP_ARCHIVE_H_
