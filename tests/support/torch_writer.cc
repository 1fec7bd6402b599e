#include "tests/support/torch_writer.h"

#include <algorithm>
#include <map>
#include <stdexcept>

namespace kascade::testing {
namespace {

template <typename T>
std::string little(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

struct ElementType {
  const char* safetensors;
  const char* storage;
  size_t bytes;
};
ElementType type_of(const std::string& dtype) {
  static constexpr ElementType kTypes[] = {{"F32", "FloatStorage", 4},
                                           {"BF16", "BFloat16Storage", 2},
                                           {"F16", "HalfStorage", 2},
                                           {"F64", "DoubleStorage", 8},
                                           {"I64", "LongStorage", 8}};
  for (const ElementType& type : kTypes) {
    if (dtype == type.safetensors) return type;
  }
  throw std::invalid_argument("torch_writer: no type " + dtype);
}

// The bytes of a row-major matrix, column by column.
std::string transpose(const RawTensor& tensor, size_t bytes) {
  const auto rows = static_cast<size_t>(tensor.shape[0]);
  const auto cols = static_cast<size_t>(tensor.shape[1]);
  std::string result;
  for (size_t col = 0; col < cols; ++col) {
    for (size_t row = 0; row < rows; ++row) {
      result += tensor.bytes.substr((row * cols + col) * bytes, bytes);
    }
  }
  return result;
}

// 64-bit values of a header, as its extra field.
std::string wide_extra(const std::vector<uint64_t>& values) {
  std::string extra = little<uint16_t>(1) + little(static_cast<uint16_t>(values.size() * 8));
  for (const uint64_t value : values) extra += little(value);
  return extra;
}

std::string local_header(const ZipMember& member, const ZipForm& form, size_t position) {
  const auto bytes = static_cast<uint32_t>(form.wide ? 0xffffffff : member.content.size());
  std::string extra;
  if (form.wide) extra = wide_extra({member.content.size(), member.content.size()});
  if (form.aligned) {
    const size_t begin = position + 30 + member.name.size() + extra.size() + 4;
    const size_t padding = (64 - begin % 64) % 64;
    extra += "FB" + little(static_cast<uint16_t>(padding)) + std::string(padding, 'Z');
  }
  return "PK\x03\x04" + little<uint16_t>(20) + little(member.flags) + little(member.method) +
         little<uint32_t>(0) + little<uint32_t>(0) + little(bytes) + little(bytes) +
         little(static_cast<uint16_t>(member.name.size())) +
         little(static_cast<uint16_t>(extra.size())) + member.name + extra;
}

std::string central_header(const ZipMember& member, const ZipForm& form, size_t position) {
  const auto bytes = static_cast<uint32_t>(form.wide ? 0xffffffff : member.content.size());
  const auto offset = static_cast<uint32_t>(form.wide ? 0xffffffff : position);
  std::string extra;
  if (form.wide) extra = wide_extra({member.content.size(), member.content.size(), position});
  return "PK\x01\x02" + little<uint16_t>(20) + little<uint16_t>(20) + little(member.flags) +
         little(member.method) + little<uint32_t>(0) + little<uint32_t>(0) + little(bytes) +
         little(bytes) + little(static_cast<uint16_t>(member.name.size())) +
         little(static_cast<uint16_t>(extra.size())) + little<uint16_t>(0) + little<uint16_t>(0) +
         little<uint16_t>(0) + little<uint32_t>(0) + little(offset) + member.name + extra;
}

std::string end_records(size_t entries, size_t begin, size_t bytes, const ZipForm& form) {
  std::string result;
  if (form.wide) {
    result += "PK\x06\x06" + little<uint64_t>(44) + little<uint16_t>(45) + little<uint16_t>(45) +
              little<uint32_t>(0) + little<uint32_t>(0) + little<uint64_t>(entries) +
              little<uint64_t>(entries) + little<uint64_t>(bytes) + little<uint64_t>(begin);
    result +=
        "PK\x06\x07" + little<uint32_t>(0) + little<uint64_t>(begin + bytes) + little<uint32_t>(1);
  }
  const auto count = static_cast<uint16_t>(form.wide ? 0xffff : entries);
  return result + "PK\x05\x06" + little<uint16_t>(0) + little<uint16_t>(0) + little(count) +
         little(count) + little(static_cast<uint32_t>(form.wide ? 0xffffffff : bytes)) +
         little(static_cast<uint32_t>(form.wide ? 0xffffffff : begin)) +
         little(static_cast<uint16_t>(form.comment.size())) + form.comment;
}

}  // namespace

namespace pickled {

std::string integer(int64_t value) {
  if (value >= 0 && value < 256) return "K" + little(static_cast<uint8_t>(value));
  if (value >= 0 && value < 65536) return "M" + little(static_cast<uint16_t>(value));
  if (value == static_cast<int32_t>(value)) return "J" + little(static_cast<int32_t>(value));
  return "\x8a\x08" + little(value);
}
std::string text(std::string_view value) {
  return "X" + little(static_cast<uint32_t>(value.size())) + std::string(value);
}
std::string tuple(const std::vector<std::string>& items) {
  std::string result = "(";
  for (const std::string& item : items) result += item;
  return result + "t";
}
std::string global(std::string_view module, std::string_view name) {
  return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}
std::string call(const std::string& function, const std::string& arguments) {
  return function + arguments + "R";
}
std::string map(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string result = "}(";
  for (const auto& [key, value] : items) result += text(key) + value;
  return result + "u";
}
std::string sizes(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
std::string storage(std::string_view type, std::string_view key, int64_t elements) {
  return tuple(
             {text("storage"), global("torch", type), text(key), text("cpu"), integer(elements)}) +
         "Q";
}
std::string tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides) {
  const std::string hooks = call(global("collections", "OrderedDict"), ")");
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              tuple({storage, integer(offset), sizes(shape), sizes(strides), "\x89", hooks}));
}
std::string document(const std::string& root) { return "\x80\x02" + root + "."; }

}  // namespace pickled

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i > 1; --i) strides[i - 2] = strides[i - 1] * shape[i - 1];
  return strides;
}

std::string zip_bytes(const std::vector<ZipMember>& members, const ZipForm& form) {
  std::string result;
  std::string directory;
  for (const ZipMember& member : members) {
    directory += central_header(member, form, result.size());
    result += local_header(member, form, result.size()) + member.content;
  }
  return result + directory + end_records(members.size(), result.size(), directory.size(), form);
}

std::string torch_bytes(const std::vector<RawTensor>& tensors, const TorchForm& form) {
  std::vector<ZipMember> members = {{"archive/data.pkl", ""}};
  if (!form.byteorder.empty()) members.push_back({"archive/byteorder", form.byteorder});
  std::vector<std::pair<std::string, std::string>> entries;
  for (const RawTensor& tensor : tensors) {
    const ElementType type = type_of(tensor.dtype);
    const bool flipped = form.transposed && tensor.shape.size() == 2;
    std::string key = std::to_string(entries.size());
    for (const auto& [name, original] : form.shared) {
      if (name != tensor.name) continue;
      const auto same = [&o = original](const RawTensor& other) { return other.name == o; };
      key = std::to_string(std::find_if(tensors.begin(), tensors.end(), same) - tensors.begin());
    }
    std::vector<int64_t> strides = contiguous_strides(tensor.shape);
    if (flipped) strides = {1, tensor.shape[0]};
    std::string value = pickled::tensor(
        pickled::storage(type.storage, key, static_cast<int64_t>(tensor.bytes.size() / type.bytes)),
        0, tensor.shape, strides);
    if (form.parameters) {
      value = pickled::call(pickled::global("torch._utils", "_rebuild_parameter"),
                            pickled::tuple({value, "\x88", "}"}));
    }
    if (key == std::to_string(entries.size())) {
      members.push_back(
          {"archive/data/" + key, flipped ? transpose(tensor, type.bytes) : tensor.bytes});
    }
    entries.emplace_back(tensor.name, value);
  }
  members.push_back({"archive/version", "3\n"});
  std::string root = pickled::map(entries);
  if (!form.wrapper.empty()) root = pickled::map({{form.wrapper, root}});
  members[0].content = pickled::document(root);
  return zip_bytes(members, form.zip);
}

}  // namespace kascade::testing
