#include "engine/tokenizer/wire_format.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade::bpe {

WireReader::WireReader(std::string_view message, std::string path)
    : message_(message), path_(std::move(path)) {}

absl::Status WireReader::damaged(const std::string& what) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, path_.empty() ? "" : ", ", "byte ", position_, ": ", what));
}

absl::Status WireReader::wrong_type(const WireField& field, const char* name) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, path_.empty() ? "" : ".", name,
                                                 ": wire type ", static_cast<int>(field.type),
                                                 " is not that of this field"));
}

absl::StatusOr<uint64_t> WireReader::varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (position_ == message_.size()) return damaged("the number runs past the end");
    const auto byte = static_cast<uint8_t>(message_[position_++]);
    if (shift == 63 && byte > 1) return damaged("the number has more than 64 bits");
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return damaged("the number has more than 64 bits");
}

absl::StatusOr<uint64_t> WireReader::fixed(size_t size) {
  if (message_.size() - position_ < size) return damaged("the number runs past the end");
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(message_[position_ + i])) << (8 * i);
  }
  position_ += size;
  return value;
}

absl::StatusOr<std::optional<WireField>> WireReader::next() {
  if (position_ == message_.size()) return std::nullopt;
  const absl::StatusOr<uint64_t> key = varint();
  if (!key.ok()) return key.status();
  const uint64_t number = *key >> 3;
  if (number == 0 || number >= 1u << 29) {
    return damaged(absl::StrCat("field number ", number, ", expected 1 to 536870911"));
  }
  WireField field;
  field.number = static_cast<uint32_t>(number);
  field.type = static_cast<WireField::Type>(*key & 7);
  absl::StatusOr<uint64_t> value = 0;
  switch (field.type) {
    case WireField::Type::kVarint:
    case WireField::Type::kBytes:
      value = varint();
      break;
    case WireField::Type::kFixed64:
      value = fixed(8);
      break;
    case WireField::Type::kFixed32:
      value = fixed(4);
      break;
    default:
      return damaged(
          absl::StrCat("field ", number, " has wire type ", *key & 7, ", expected 0, 1, 2 or 5"));
  }
  if (!value.ok()) return value.status();
  field.value = *value;
  if (field.type != WireField::Type::kBytes) return field;
  if (field.value > message_.size() - position_) {
    return damaged(absl::StrCat("field ", number, " has ", field.value, " bytes, but only ",
                                message_.size() - position_, " are left"));
  }
  field.bytes = message_.substr(position_, field.value);
  position_ += field.value;
  return field;
}

}  // namespace kascade::bpe
