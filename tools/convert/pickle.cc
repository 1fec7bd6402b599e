#include "tools/convert/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/convert/pickle_objects.h"

namespace kascade::convert {
namespace {

constexpr size_t kMaxBytes = 16 << 20;
constexpr size_t kMaxValues = 1 << 18;  // a value takes about 100 bytes
constexpr size_t kMaxMarks = 1000;      // containers that are open at the same time
constexpr size_t kMaxNameBytes = 256;
constexpr uint8_t kProtocol = 2;

// Interprets the stream with a stack and without recursion. Each opcode makes at most one value,
// and containers hold ids, so memory is proportional to the length of the stream even if values are
// shared through the memo. After fail() a method returns false.
class Machine {
 public:
  Machine(std::string_view stream, const std::string& where) : stream_(stream), where_(where) {}

  absl::StatusOr<Pickle> run() {
    if (stream_.size() > kMaxBytes) {
      fail(absl::StrCat("expected at most ", kMaxBytes, " bytes, found ", stream_.size()));
      return error_;
    }
    uint8_t version = 0;
    uint8_t opcode = 0;
    if (!number(opcode) || !number(version)) return error_;
    if (opcode != 0x80 || version != kProtocol) {
      fail(absl::StrCat("expected pickle protocol ", kProtocol), absl::StatusCode::kUnimplemented);
      return error_;
    }
    while (!stopped_) {
      if (!number(opcode) || !step(opcode)) return error_;
    }
    return std::move(pickle_);
  }

 private:
  bool step(uint8_t opcode) {
    switch (opcode) {
      case '.':
        return stop();
      case '(':
        return mark();
      case 'N':
        return push(PickleNull{});
      case 0x88:
      case 0x89:
        return push(opcode == 0x88);
      case 'J':
        return integer<int32_t>();
      case 'K':
        return integer<uint8_t>();
      case 'M':
        return integer<uint16_t>();
      case 0x8a:
        return long_integer();
      case 'G':
        return real();
      case 'X':
        return text<uint32_t>();
      case 'U':
        return text<uint8_t>();
      case 'q':
        return put<uint8_t>();
      case 'r':
        return put<uint32_t>();
      case 'h':
        return get<uint8_t>();
      case 'j':
        return get<uint32_t>();
      default:
        return step_structure(opcode);
    }
  }

  bool step_structure(uint8_t opcode) {
    switch (opcode) {
      case '}':
        return push(PickleMap{});
      case ']':
        return push(PickleList{});
      case ')':
      case 0x8f:  // the empty set; these opcodes cannot add elements to it
        return push(PickleTuple{});
      case 0x85:
      case 0x86:
      case 0x87:
        return short_tuple(opcode - 0x85u + 1);
      case 't':
        return marked_tuple();
      case 'a':
        return append();
      case 'e':
        return append_marked();
      case 's':
        return set_item();
      case 'u':
        return set_marked();
      case 'c':
        return global();
      case 'Q':
        return storage();
      case 'R':
      case 0x81:
        return construct();
      case 'b':
        return build();
      default:
        return fail(absl::StrFormat("pickle opcode 0x%02x is not allowed in a checkpoint", opcode),
                    absl::StatusCode::kUnimplemented);
    }
  }

  bool fail(const std::string& fault, absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    error_ = absl::Status(code, absl::StrCat(where_, ": byte ", position_, ": ", fault));
    return false;
  }

  // ---- Reading the stream ----

  bool take(size_t bytes, std::string_view& taken) {
    if (bytes > stream_.size() - position_) {
      return fail(absl::StrCat("cut short: expected ", bytes, " more bytes, found ",
                               stream_.size() - position_));
    }
    taken = stream_.substr(position_, bytes);
    position_ += bytes;
    return true;
  }
  template <typename T>
  bool number(T& value) {
    std::string_view bytes;
    if (!take(sizeof(T), bytes)) return false;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return true;
  }
  // Reads up to the end of the line.
  bool name(std::string& value) {
    const std::string_view rest = stream_.substr(position_, kMaxNameBytes);
    const size_t end = rest.find('\n');
    if (end == rest.npos) return fail("a name does not end");
    value = rest.substr(0, end);
    position_ += end + 1;
    return true;
  }

  // ---- The stack ----

  bool push(PickleValue value) {
    if (pickle_.values.size() >= kMaxValues) {
      return fail(absl::StrCat("more than ", kMaxValues, " values"));
    }
    stack_.push_back(static_cast<PickleId>(pickle_.values.size()));
    pickle_.values.push_back(std::move(value));
    return true;
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  bool top(PickleId& id) {
    if (stack_.size() <= floor()) return fail("a value is missing on the stack");
    id = stack_.back();
    return true;
  }
  bool pop(PickleId& id) {
    if (!top(id)) return false;
    stack_.pop_back();
    return true;
  }
  bool pop_marked(std::vector<PickleId>& ids) {
    if (marks_.empty()) return fail("a mark is missing on the stack");
    const auto begin = stack_.begin() + static_cast<int64_t>(marks_.back());
    ids.assign(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return true;
  }
  // Returns the topmost value, which must be a T.
  template <typename T>
  bool top_as(const char* expected, T*& value) {
    PickleId id = 0;
    if (!top(id)) return false;
    value = std::get_if<T>(&pickle_.values[id]);
    return value || fail(std::string(pickle_mismatch(pickle_, expected, id).message()));
  }

  // ---- Opcodes ----

  bool stop() {
    if (!marks_.empty() || stack_.size() != 1 || position_ != stream_.size()) {
      return fail(absl::StrCat("expected to end with one value, found ", stack_.size(), " values, ",
                               marks_.size(), " marks and ", stream_.size() - position_,
                               " bytes left"));
    }
    pickle_.root = stack_.back();
    stopped_ = true;
    return true;
  }
  bool mark() {
    if (marks_.size() >= kMaxMarks) return fail(absl::StrCat("more than ", kMaxMarks, " marks"));
    marks_.push_back(stack_.size());
    return true;
  }
  template <typename T>
  bool integer() {
    T value = 0;
    return number(value) && push(int64_t{value});
  }
  // Reads a little-endian two's complement integer of any length.
  bool long_integer() {
    uint8_t length = 0;
    std::string_view bytes;
    if (!number(length) || !take(length, bytes)) return false;
    if (bytes.size() > sizeof(int64_t)) return fail("an integer of more than 64 bits");
    const bool negative = !bytes.empty() && (bytes.back() & 0x80);
    int64_t value = negative ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return push(value);
  }
  bool real() {
    uint64_t bits = 0;
    return number(bits) && push(std::bit_cast<double>(__builtin_bswap64(bits)));
  }
  template <typename Length>
  bool text() {
    Length length = 0;
    std::string_view bytes;
    return number(length) && take(length, bytes) && push(bytes);
  }
  template <typename Index>
  bool put() {
    Index index = 0;
    PickleId id = 0;
    if (!number(index) || !top(id)) return false;
    memo_[index] = id;
    return memo_.size() <= kMaxValues || fail(absl::StrCat("more than ", kMaxValues, " memos"));
  }
  template <typename Index>
  bool get() {
    Index index = 0;
    if (!number(index)) return false;
    const auto found = memo_.find(index);
    if (found == memo_.end()) return fail(absl::StrCat("memo ", index, " was never set"));
    stack_.push_back(found->second);
    return true;
  }
  bool short_tuple(size_t count) {
    PickleTuple tuple{std::vector<PickleId>(count)};
    for (size_t i = count; i > 0; --i) {
      if (!pop(tuple.items[i - 1])) return false;
    }
    return push(std::move(tuple));
  }
  bool marked_tuple() {
    PickleTuple tuple;
    return pop_marked(tuple.items) && push(std::move(tuple));
  }
  bool append() {
    PickleId item = 0;
    PickleList* list = nullptr;
    if (!pop(item) || !top_as("a list", list)) return false;
    list->items.push_back(item);
    return true;
  }
  bool append_marked() {
    std::vector<PickleId> items;
    PickleList* list = nullptr;
    if (!pop_marked(items) || !top_as("a list", list)) return false;
    list->items.insert(list->items.end(), items.begin(), items.end());
    return true;
  }
  bool set_item() {
    PickleId value = 0;
    PickleId key = 0;
    PickleMap* map = nullptr;
    if (!pop(value) || !pop(key) || !top_as("a dictionary", map)) return false;
    map->items.emplace_back(key, value);
    return true;
  }
  bool set_marked() {
    std::vector<PickleId> items;
    PickleMap* map = nullptr;
    if (!pop_marked(items) || !top_as("a dictionary", map)) return false;
    if (items.size() % 2 != 0) return fail("a key without a value");
    for (size_t i = 0; i < items.size(); i += 2) map->items.emplace_back(items[i], items[i + 1]);
    return true;
  }

  // ---- Names and what they make ----

  bool push_made(absl::StatusOr<PickleValue> made) {
    if (!made.ok()) return fail(std::string(made.status().message()), made.status().code());
    return push(*std::move(made));
  }
  bool global() {
    std::string module;
    std::string object;
    return name(module) && name(object) && push_made(named_object(module, object));
  }
  bool storage() {
    PickleId id = 0;
    return pop(id) && push_made(stored_object(pickle_, id));
  }
  // The opcodes REDUCE and NEWOBJ: call a function or a class.
  bool construct() {
    PickleId arguments = 0;
    PickleId callee = 0;
    return pop(arguments) && pop(callee) && push_made(called_object(pickle_, callee, arguments));
  }
  // The opcode BUILD: drops the state of a dictionary (metadata of torch.nn.Module).
  bool build() {
    PickleId state = 0;
    PickleMap* map = nullptr;
    return pop(state) && top_as("a dictionary", map);
  }

  std::string_view stream_;
  const std::string& where_;
  size_t position_ = 0;
  bool stopped_ = false;
  absl::Status error_;
  Pickle pickle_;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;  // sizes of the stack when the marks were set
  std::unordered_map<uint32_t, PickleId> memo_;
};

}  // namespace

absl::StatusOr<Pickle> read_pickle(std::string_view stream, const std::string& where) {
  return Machine(stream, where).run();
}

}  // namespace kascade::convert
