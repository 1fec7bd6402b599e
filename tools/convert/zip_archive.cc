#include "tools/convert/zip_archive.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "engine/model/json.h"

namespace kascade::convert {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint64_t kMaxEntries = 1 << 17;

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr uint64_t kLocalBytes = 30;  // sizes of the fixed parts of the records
constexpr uint64_t kCentralBytes = 46;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kLocator64Bytes = 20;
constexpr uint16_t kExtra64 = 1;            // id of the extra field with 64-bit sizes
constexpr uint32_t kSeeExtra = 0xffffffff;  // in a 32-bit field: the value is in the extra field
constexpr uint16_t kSeeEnd64 = 0xffff;

constexpr uint16_t kSizesFollow = 1 << 3;  // flag: the local header may lack the sizes
// Flags for encryption, patched data, strong encryption and masked headers.
constexpr uint16_t kUnreadableFlags = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 13;

struct Directory {
  uint64_t begin = 0;
  uint64_t bytes = 0;
  uint64_t entries = 0;
};

struct CentralRecord {
  std::string name;
  uint16_t flags = 0;
  uint64_t bytes = 0;
  uint64_t local = 0;      // position of the local header
  uint64_t data = 0;       // position of the content
  uint64_t next = 0;       // position of the next central record
  std::string_view extra;  // extra field of the central record
};

bool leads_out(const std::string& name) {
  if (name.empty() || name.front() == '/') return true;
  if (name.find_first_of("\\\0", 0, 2) != std::string::npos) return true;
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  return std::find(parts.begin(), parts.end(), "..") != parts.end();
}

class ZipReader {
 public:
  ZipReader(std::string_view archive, const std::string& file) : archive_(archive), file_(file) {}

  absl::StatusOr<ZipEntries> read() {
    const auto directory = find_directory();
    if (!directory.ok()) return directory.status();
    directory_ = *directory;
    std::vector<CentralRecord> records;
    uint64_t position = directory_.begin;
    for (uint64_t i = 0; i < directory_.entries; ++i) {
      auto record = read_record(position);
      if (!record.ok()) return record.status();
      position = record->next;
      records.push_back(*std::move(record));
    }
    if (position != directory_.begin + directory_.bytes) {
      return invalid(absl::StrCat("the central directory should end at byte ",
                                  directory_.begin + directory_.bytes, ", found ", position));
    }
    return gather(std::move(records));
  }

 private:
  absl::Status invalid(const std::string& fault) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", fault));
  }
  absl::Status invalid(const std::string& name, const std::string& fault) const {
    return invalid(absl::StrCat("entry ", shown(name), ": ", fault));
  }

  uint64_t size() const { return archive_.size(); }
  bool has(uint64_t position, uint64_t bytes) const {
    return position <= size() && bytes <= size() - position;
  }
  template <typename T>
  T field(uint64_t position) const {
    KASCADE_CHECK(has(position, sizeof(T)));
    T value;
    std::memcpy(&value, archive_.data() + position, sizeof(T));
    return value;
  }
  uint16_t u16(uint64_t position) const { return field<uint16_t>(position); }
  uint32_t u32(uint64_t position) const { return field<uint32_t>(position); }
  uint64_t u64(uint64_t position) const { return field<uint64_t>(position); }

  // The end record is the last part of the file, except for a comment, whose length it states.
  std::optional<uint64_t> find_end() const {
    if (size() < kEndBytes) return std::nullopt;
    const uint64_t last = size() - kEndBytes;
    for (uint64_t comment = 0; comment <= std::min<uint64_t>(last, 0xffff); ++comment) {
      const uint64_t position = last - comment;
      if (u32(position) == kEndSignature && u16(position + 20) == comment) return position;
    }
    return std::nullopt;
  }

  absl::StatusOr<Directory> find_directory() const {
    const auto end = find_end();
    if (!end) return invalid("no end of central directory: not a ZIP archive, or cut short");
    Directory found{u32(*end + 16), u32(*end + 12), u16(*end + 10)};
    const uint16_t disk = u16(*end + 4);
    uint64_t border = *end;
    if (*end >= kLocator64Bytes && u32(*end - kLocator64Bytes) == kLocator64Signature) {
      const auto place = find_end64(*end - kLocator64Bytes);
      if (!place.ok()) return place.status();
      border = *place;
      const Directory wide{u64(border + 48), u64(border + 40), u64(border + 32)};
      if ((found.begin != kSeeExtra && found.begin != wide.begin) ||
          (found.bytes != kSeeExtra && found.bytes != wide.bytes) ||
          (found.entries != kSeeEnd64 && found.entries != wide.entries)) {
        return invalid("the end records of 32 and 64 bits disagree");
      }
      found = wide;
    } else if (disk != 0 || u16(*end + 6) != 0 || u16(*end + 8) != found.entries) {
      return absl::UnimplementedError(absl::StrCat(file_, ": archive of several files"));
    }
    if (found.begin > border || found.bytes > border - found.begin) {
      return invalid(absl::StrCat("the central directory (", found.bytes, " bytes at ", found.begin,
                                  ") should end before byte ", border));
    }
    const uint64_t most = std::min(kMaxEntries, found.bytes / kCentralBytes);
    if (found.entries > most) {
      return invalid(absl::StrCat("expected at most ", most, " entries, found ", found.entries));
    }
    return found;
  }

  // Returns the position of the 64-bit end record that `locator` points to.
  absl::StatusOr<uint64_t> find_end64(uint64_t locator) const {
    const uint64_t position = u64(locator + 8);
    if (locator < kEnd64Bytes || position > locator - kEnd64Bytes ||
        u32(position) != kEnd64Signature) {
      return invalid(absl::StrCat("no 64-bit end record at byte ", position));
    }
    if (u32(locator + 4) != 0 || u32(locator + 16) > 1 || u32(position + 16) != 0 ||
        u32(position + 20) != 0 || u64(position + 24) != u64(position + 32)) {
      return absl::UnimplementedError(absl::StrCat(file_, ": archive of several files"));
    }
    return position;
  }

  absl::StatusOr<CentralRecord> read_record(uint64_t position) const {
    const uint64_t end = directory_.begin + directory_.bytes;
    const auto damaged = [&] {
      return invalid(absl::StrCat("damaged central directory at byte ", position));
    };
    if (end - position < kCentralBytes || u32(position) != kCentralSignature) return damaged();
    CentralRecord record;
    const uint64_t name = position + kCentralBytes;
    const uint64_t name_bytes = u16(position + 28);
    const uint64_t extra_bytes = u16(position + 30);
    record.next = name + name_bytes + extra_bytes + u16(position + 32);
    if (record.next > end) return damaged();
    record.name = archive_.substr(name, name_bytes);
    record.extra = archive_.substr(name + name_bytes, extra_bytes);
    if (leads_out(record.name)) {
      return invalid(record.name, "expected a relative path without \"..\"");
    }
    record.flags = u16(position + 8);
    if (auto status = check_readable(record, u16(position + 10)); !status.ok()) return status;
    if (auto status = read_sizes(position, record); !status.ok()) return status;
    if (auto status = read_local(record); !status.ok()) return status;
    return record;
  }

  absl::Status check_readable(const CentralRecord& record, uint16_t method) const {
    const auto unsupported = [&](const std::string& fault) {
      return absl::UnimplementedError(
          absl::StrCat(file_, ": entry ", shown(record.name), ": ", fault));
    };
    if (record.flags & kUnreadableFlags) {
      return unsupported(absl::StrCat("encrypted or patched (flags ", record.flags, ")"));
    }
    if (method == 0) return absl::OkStatus();
    return unsupported(absl::StrCat("compressed with method ", method,
                                    "; only stored entries (method 0) are read, which is what "
                                    "torch.save writes"));
  }

  // Reads sizes and offset of the central record. Those that need 64 bits are in the extra field,
  // in this order.
  absl::Status read_sizes(uint64_t position, CentralRecord& record) const {
    uint64_t stored = u32(position + 20);
    record.bytes = u32(position + 24);
    record.local = u32(position + 42);
    std::string_view wide = extra64(record.extra);
    for (uint64_t* value : {&record.bytes, &stored, &record.local}) {
      if (*value != kSeeExtra) continue;
      if (wide.size() < sizeof(uint64_t)) return invalid(record.name, "64-bit sizes are missing");
      std::memcpy(value, wide.data(), sizeof(uint64_t));
      wide.remove_prefix(sizeof(uint64_t));
    }
    if (u16(position + 34) != 0) return invalid(record.name, "lies in another file");
    if (stored == record.bytes) return absl::OkStatus();
    return invalid(record.name, absl::StrCat("stored, so expected ", record.bytes,
                                             " bytes in the file, found ", stored));
  }

  // Returns the content of the extra field with 64-bit sizes; empty if there is none.
  static std::string_view extra64(std::string_view extra) {
    while (extra.size() >= 4) {
      uint16_t id = 0;
      uint16_t bytes = 0;
      std::memcpy(&id, extra.data(), sizeof(id));
      std::memcpy(&bytes, extra.data() + sizeof(id), sizeof(bytes));
      extra.remove_prefix(4);
      if (bytes > extra.size()) return {};
      if (id == kExtra64) return extra.substr(0, bytes);
      extra.remove_prefix(bytes);
    }
    return {};
  }

  // Only the local header tells where the content starts, because it has an extra field of its own,
  // by which torch.save aligns the content.
  absl::Status read_local(CentralRecord& record) const {
    const uint64_t end = directory_.begin;
    if (record.local > end || end - record.local < kLocalBytes ||
        u32(record.local) != kLocalSignature) {
      return invalid(record.name, absl::StrCat("no local header at byte ", record.local));
    }
    const uint64_t name = record.local + kLocalBytes;
    const uint64_t name_bytes = u16(record.local + 26);
    record.data = name + name_bytes + u16(record.local + 28);
    if (record.data > end || record.bytes > end - record.data) {
      return invalid(record.name, absl::StrCat("expected ", record.bytes, " bytes at ", record.data,
                                               " before the central directory at ", end));
    }
    const uint16_t flags = u16(record.local + 6);
    const uint32_t bytes = u32(record.local + 22);
    const bool same_bytes = bytes == record.bytes || bytes == kSeeExtra || (flags & kSizesFollow);
    if (archive_.substr(name, name_bytes) != record.name || u16(record.local + 8) != 0 ||
        (flags & kUnreadableFlags) || !same_bytes) {
      return invalid(record.name, "the local header disagrees with the central directory");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ZipEntries> gather(std::vector<CentralRecord> records) const {
    std::sort(records.begin(), records.end(),
              [](const CentralRecord& a, const CentralRecord& b) { return a.local < b.local; });
    ZipEntries entries;
    uint64_t filled = 0;
    for (CentralRecord& record : records) {
      if (record.local < filled) return invalid(record.name, "overlaps another entry");
      filled = record.data + record.bytes;
      const std::string_view content = archive_.substr(record.data, record.bytes);
      const auto [place, is_new] = entries.emplace(std::move(record.name), content);
      if (!is_new) return invalid(place->first, "occurs twice");
    }
    return entries;
  }

  std::string_view archive_;
  const std::string& file_;
  Directory directory_;
};

}  // namespace

absl::StatusOr<ZipEntries> read_zip(std::string_view archive, const std::string& file) {
  return ZipReader(archive, file).read();
}

}  // namespace kascade::convert
