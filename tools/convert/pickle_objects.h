// Makes the values that the names in a pickle stand for: dictionaries, storages and tensors, and
// nothing else. pickle.cc adds the file and the byte offset to the errors.
#ifndef KASCADE_TOOLS_CONVERT_PICKLE_OBJECTS_H_
#define KASCADE_TOOLS_CONVERT_PICKLE_OBJECTS_H_

#include <string>

#include "absl/status/statusor.h"
#include "tools/convert/pickle.h"

namespace kascade::convert {

// Returns the value of the name `object` in the Python module `module`; UNIMPLEMENTED if it is not
// allowed.
absl::StatusOr<PickleValue> named_object(const std::string& module, const std::string& object);

// Returns the storage of a persistent id: ("storage", type, key, device, elements).
absl::StatusOr<PickleValue> stored_object(const Pickle& pickle, PickleId id);

// Returns the result of calling `callee` with the tuple `arguments`: an OrderedDict, a tensor or a
// parameter.
absl::StatusOr<PickleValue> called_object(const Pickle& pickle, PickleId callee,
                                          PickleId arguments);

absl::Status pickle_mismatch(const Pickle& pickle, const std::string& expected, PickleId found);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_PICKLE_OBJECTS_H_
